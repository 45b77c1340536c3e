//! Arguments of `bundle`.

use clap::{Subcommand, ValueEnum};

use crate::output::Format;

/// `bundle`
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// List bundles: our own, and those of the trust domains that are followed
    Show {
        /// Only this trust domain's, in full
        trust_domain: Option<String>,
        /// How to show them
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Print a bundle for others to use: our own, or that of a trust domain that is followed
    Export {
        /// Whose [default: our own]
        trust_domain: Option<String>,
        /// In which format
        #[arg(long, value_enum, default_value_t = BundleFormat::Spiffe)]
        format: BundleFormat,
    },
    /// Ask the endpoint of a trust domain that is followed for its bundle now, or an issuer's for its keys
    Refresh {
        /// Whose bundle
        #[arg(required_unless_present = "issuer")]
        trust_domain: Option<String>,
        /// The JwtIssuer whose keys are fetched
        #[arg(long, value_name = "ISSUER", conflicts_with = "trust_domain")]
        issuer: Option<String>,
    },
}

/// How a bundle is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BundleFormat {
    /// SPIFFE's: a JSON Web Key Set, with the keys for tokens
    Spiffe,
    /// The roots alone
    Pem,
}
