//! Arguments of `run` about who signs this installation's authorities.

use clap::Args;

// No doc comment: it would become that of the command.
#[derive(Args)]
pub(crate) struct UpstreamArguments {
    /// An authority of your own that signs the issuing authorities of this installation: its certificate in PEM, with those
    /// between it and the root behind it; read anew each time [default: a root of the installation's own]
    /// [env: HAUBERK_UPSTREAM_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    upstream_certificate: Option<String>,
    /// The private key of that certificate, PEM, readable by nobody else [env: HAUBERK_UPSTREAM_KEY]
    #[arg(long, value_name = "FILE")]
    upstream_key: Option<String>,
    /// The root that everybody is to trust, PEM, where it is not a self-signed certificate in the first file
    /// [env: HAUBERK_UPSTREAM_ROOT]
    #[arg(long, value_name = "FILE")]
    upstream_root: Option<String>,
    /// Instead of these: the context file of an identity-admin of another Hauberk of the same trust domain, which signs the
    /// issuing authorities of this one, and whose roots are followed [env: HAUBERK_UPSTREAM_CONTEXT]
    #[arg(long, value_name = "FILE")]
    upstream_context: Option<String>,
}

impl UpstreamArguments {
    /// The settings that were given, by their names.
    pub(crate) fn flags(self) -> [(&'static str, Option<String>); 4] {
        let Self { upstream_certificate, upstream_key, upstream_root, upstream_context } = self;
        [
            ("upstream-certificate", upstream_certificate),
            ("upstream-key", upstream_key),
            ("upstream-root", upstream_root),
            ("upstream-context", upstream_context),
        ]
    }
}
