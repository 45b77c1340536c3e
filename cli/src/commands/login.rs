//! `hauberk login`

use std::io::Read as _;

use hauberk_identity::TrustDomain;
use hauberk_proto::admin::v1::LoginRequest;
use hauberk_proto::admin::v1::admins_client::AdminsClient;
use hauberk_tls::{BootstrapTrust, CertificateRequest, Fingerprint, KeyPair};

use crate::arguments::Login;
use crate::client;
use crate::context::{ContextStore, adopt};
use crate::error::CommandError;
use crate::output;

/// Tokens are far shorter.
const MAX_TOKEN: u64 = 4096;

/// Runs the command.
///
/// # Errors
/// The token or fingerprint is wrong, or the control plane is not the one that was meant.
pub(crate) async fn run(arguments: Login) -> Result<(), CommandError> {
    let pin: Fingerprint = arguments
        .root_fingerprint
        .parse()
        .map_err(|error| CommandError::Usage(format!("--root-fingerprint: {error}")))?;
    let trust_domain = arguments.trust_domain.as_deref().map(TrustDomain::parse).transpose();
    let trust_domain =
        trust_domain.map_err(|error| CommandError::Usage(format!("--trust-domain: {error}")))?;
    let login_token = token(&arguments.token_file)?;
    let store = ContextStore::of_user()?;
    let key = KeyPair::generate().map_err(|error| CommandError::failed(error.to_string()))?;
    let csr = CertificateRequest::create(&key).map_err(|error| CommandError::failed(error.to_string()))?;
    let channel =
        client::connect_pinned(&arguments.server, BootstrapTrust::Root { pin, trust_domain }).await?;
    let credential = AdminsClient::new(channel).login(LoginRequest { login_token, csr }).await?.into_inner();
    let context = adopt(&credential, &key, &arguments.server).map_err(|error| {
        CommandError::failed(format!("the control plane's answer cannot be used: {error}"))
    })?;
    let name = arguments.name.unwrap_or_else(|| context.trust_domain.clone());
    let admin = context.admin.clone();
    store.update(|contexts| {
        contexts.contexts.insert(name.clone(), context);
        contexts.current = Some(name.clone());
    })?;
    output::note(format_args!("logged in as {admin}; context {name} is current"));
    output::note("next: hauberk check");
    Ok(())
}

fn token(path: &std::path::Path) -> Result<String, CommandError> {
    let name = if path == std::path::Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let mut text = String::new();
    let read = if path == std::path::Path::new("-") {
        if output::is_interactive() {
            output::note("paste the login token, then press Ctrl-D:");
        }
        std::io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
    };
    read.map_err(|error| CommandError::failed(format!("cannot read the login token from {name}: {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(CommandError::Usage(format!("there is no login token in {name}")));
    }
    Ok(token.to_owned())
}
