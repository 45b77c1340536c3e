//! Arguments of `authority`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::output::Format;
use crate::times;

/// `authority`
#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// List authorities, and how many live instances hold certificates by each
    List {
        /// How to show them
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Make the next authority: everybody is told to trust it, and it signs nothing yet
    Prepare {
        /// Which
        #[arg(value_enum)]
        kind: AuthorityKind,
        /// A root of the installation's own, although certificates stand under somebody else's
        #[arg(long)]
        own: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Let a prepared authority sign from now on; the one before retires
    Activate {
        /// As `authority list` shows it
        serial: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Prepare the next authority, and activate it as soon as all live instances trust it
    Rotate {
        /// Which
        #[arg(value_enum)]
        kind: AuthorityKind,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Have all that an authority has signed replaced at once: its key may be in other hands
    Taint {
        /// As `authority list` shows it
        serial: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Print a request for an issuing authority under a root of yours, to be signed by whoever holds its key
    ///
    /// The key stays with the control plane. The request is the same until what was signed for it is installed.
    #[command(after_help = "\
Examples:
  hauberk authority csr --out request.pem
  openssl x509 -req -in request.pem -CA root.pem -CAkey root.key -days 90 -copy_extensions copy -out issuing.pem
  hauberk authority install issuing.pem root.pem
  hauberk authority activate SERIAL --wait")]
    Csr {
        /// With a new key, whatever waits: what was signed for the former request is of no use any longer
        #[arg(long)]
        new: bool,
        /// Write it to a file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take in what was signed, or a root alone that everybody shall trust early: it is prepared
    Install {
        /// PEM: the issuing authority's certificate, those between it and the root, and the root's, unless that is
        /// known here;
        /// - for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// PEM: the certificate that everybody is to trust, where it is not a self-signed one of these
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
        /// Nobody else signs certificates of this trust domain's members under the root: Envoys are given revocation
        /// lists, and refuse what is on none of them. Takes it back: --exclusive=false. Of an intermediate that
        /// everybody trusts already: FILE and --root are both it
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        exclusive: Option<bool>,
    },
    /// Sign another Hauberk's request, for the same trust domain, under the active root
    #[command(after_help = "\
Examples:
  hauberk authority csr --context child | hauberk authority sign --context parent | hauberk authority install - --context child")]
    Sign {
        /// PEM: the request; - for standard input
        #[arg(default_value = "-", value_name = "FILE")]
        file: PathBuf,
        /// Write the certificates to a file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Accept nothing any longer that an authority has signed
    Revoke {
        /// As `authority list` shows it
        serial: String,
        /// Even if live instances still hold certificates by it, or tokens by it are in use: they are cut off
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthorityKind {
    /// Vouches for issuing authorities; everybody trusts it
    Root,
    /// Signs certificates, under the root
    Issuing,
    /// Signs the views and denylists that agents take; rotated in one step
    ViewKey,
    /// Signs JWT-SVIDs
    JwtKey,
}

/// Whether to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Waiting {
    /// Return when every live instance trusts what is to be trusted and holds a certificate of the active authority
    /// [default when given: 2m]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "2m", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) wait: Option<Duration>,
}
