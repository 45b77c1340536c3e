//! Arguments of `run` about what is served to, and asked of, others than agents and admins.

use clap::Args;

// No doc comment: it would become that of the command.
#[derive(Args)]
pub(crate) struct WebArguments {
    /// Where the keys that verify JWT-SVIDs are served over HTTPS, for OpenID Connect [default: nowhere]
    /// [env: HAUBERK_OIDC_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    oidc_listen: Option<String>,
    /// The URL by which others reach that listener, such as https://oidc.shop.example: JWT-SVIDs name it as their issuer
    /// [env: HAUBERK_OIDC_ISSUER]
    #[arg(long, value_name = "URL")]
    oidc_issuer: Option<String>,
    /// The certificate chain of that listener, PEM, read again within a minute when it changes [default: the control
    /// plane's own certificate] [env: HAUBERK_OIDC_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    oidc_certificate: Option<String>,
    /// The private key of that certificate, PEM [env: HAUBERK_OIDC_KEY]
    #[arg(long, value_name = "FILE")]
    oidc_key: Option<String>,
    /// Where our trust bundle is served over HTTPS, at the path /, for other trust domains to follow [default: nowhere]
    /// [env: HAUBERK_BUNDLE_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    bundle_listen: Option<String>,
    /// The certificate chain of that listener, PEM, read again within a minute when it changes, for the profile https_web
    /// [default: the control plane's own certificate, for https_spiffe] [env: HAUBERK_BUNDLE_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    bundle_certificate: Option<String>,
    /// The private key of that certificate, PEM [env: HAUBERK_BUNDLE_KEY]
    #[arg(long, value_name = "FILE")]
    bundle_key: Option<String>,
    /// The roots of the web, PEM, by which bundle endpoints with the profile https_web are verified [default: those of the
    /// operating system] [env: HAUBERK_WEB_ROOTS]
    #[arg(long, value_name = "FILE")]
    web_roots: Option<String>,
}

impl WebArguments {
    /// The settings that were given, by their names.
    pub(crate) fn flags(self) -> [(&'static str, Option<String>); 8] {
        let Self {
            oidc_listen,
            oidc_issuer,
            oidc_certificate,
            oidc_key,
            bundle_listen,
            bundle_certificate,
            bundle_key,
            web_roots,
        } = self;
        [
            ("oidc-listen", oidc_listen),
            ("oidc-issuer", oidc_issuer),
            ("oidc-certificate", oidc_certificate),
            ("oidc-key", oidc_key),
            ("bundle-listen", bundle_listen),
            ("bundle-certificate", bundle_certificate),
            ("bundle-key", bundle_key),
            ("web-roots", web_roots),
        ]
    }
}
