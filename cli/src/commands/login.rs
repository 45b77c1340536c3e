//! `hauberk login`

use std::io::Read as _;
use std::time::Duration;

use hauberk_identity::TrustDomain;
use hauberk_proto::admin::v1::LoginRequest;
use hauberk_proto::admin::v1::admins_client::AdminsClient;
use hauberk_tls::{BootstrapTrust, CertificateRequest, Fingerprint, KeyPair};
use tonic::{Code, Response, Status};

use crate::arguments::{Global, Login, of_context};
use crate::client::{self, ClientError};
use crate::context::{ContextStore, adopt};
use crate::error::CommandError;
use crate::output;

/// How often it is asked where no answer comes, and how long after.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// Tokens are far shorter.
const MAX_TOKEN: u64 = 4096;

/// Runs the command.
///
/// # Errors
/// The token or fingerprint is wrong, or the control plane is not the one that was meant.
pub(crate) async fn run(global: &Global, arguments: Login) -> Result<(), CommandError> {
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
    let request = LoginRequest { login_token, csr };
    let credential = until_answered(async || {
        let trust = BootstrapTrust::Root { pin, trust_domain: trust_domain.clone() };
        let channel = client::connect_pinned(&arguments.server, trust).await?;
        Ok(AdminsClient::new(channel).login(request.clone()).await)
    })
    .await?;
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
    output::note(next(global, &name));
    Ok(())
}

/// What to do with the new context, which another one that is named, as by a variable, would come before.
fn next(global: &Global, name: &str) -> String {
    let of_context = if global.context.is_some() { of_context(name) } else { String::new() };
    format!("next: hauberk check{of_context}")
}

/// Asks until there is an answer: one that was lost has used up the token for every key but this one, which ends with
/// the command.
async fn until_answered<T>(
    mut ask: impl AsyncFnMut() -> Result<Result<Response<T>, Status>, ClientError>,
) -> Result<T, CommandError> {
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        match ask().await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) if is_lost(&status) => lost = Some(status),
            Ok(Err(status)) => return Err(status.into()),
            // Before anything was asked there is nothing to lose.
            Err(error) if lost.is_none() => return Err(error.into()),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    match lost {
        Some(status) => Err(status.into()),
        None => Err(CommandError::failed("the control plane does not answer")),
    }
}

/// Whether the control plane may have answered all the same.
fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Color;

    #[test]
    fn what_comes_next_is_about_the_new_context() {
        let told = |context: Option<&str>| {
            let (context, color) = (context.map(str::to_owned), Color::Auto);
            next(&Global { context, mesh: None, is_mesh_of_variable: false, color }, "shop.local")
        };
        assert_eq!(told(None), "next: hauberk check");
        assert_eq!(told(Some("other")), "next: hauberk check --context shop.local");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_asked_for_again_and_a_refusal_is_not() {
        let mut asked = 0;
        let mut answers = vec![
            Ok(Ok(Response::new("welcome"))),
            Err(ClientError::Refused { server: "a:1".to_owned() }),
            Ok(Err(Status::unavailable("the connection broke"))),
        ];
        let came = until_answered(async || {
            asked += 1;
            answers.pop().unwrap()
        });
        assert_eq!(came.await.unwrap(), "welcome");
        assert_eq!(asked, 3);
        let mut asked = 0;
        let refused = until_answered(async || {
            asked += 1;
            Ok(Err::<Response<()>, _>(Status::unauthenticated("no such token")))
        });
        assert!(refused.await.unwrap_err().to_string().contains("no such token"));
        assert_eq!(asked, 1);
        let mut asked = 0;
        let lost = until_answered(async || {
            asked += 1;
            Ok(Err::<Response<()>, _>(Status::unknown("the connection broke")))
        });
        assert!(lost.await.is_err());
        assert_eq!(asked, ATTEMPTS);
    }
}
