//! `hauberk-agent api fetch`: what a program is given by the Workload API, for people and for programs that only read
//! files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hauberk_proto::workload::{JwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse};
use hauberk_tls::{KeyPair, Svid, TrustBundle, crl_to_pem};
use tonic::Status;
use zeroize::Zeroizing;

use super::client::{ApiError, Client, bare, connect, expiry, judge, marked, nothing, read_bundle};
use crate::config::{FetchFlags, Fetched};
use crate::state::file::replace_among_others;

/// How long an answer may take: an agent that has just begun waits for its control plane.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the names of files begin with that hold other trust domains' roots.
const FEDERATED: &str = "federated.";

/// What to print. There are secrets in it.
#[derive(Default)]
pub struct Answer {
    /// What was asked for.
    pub data: String,
    /// What is to be said about it.
    pub remarks: String,
}

/// Asks once.
///
/// # Errors
/// See [`ApiError`].
pub async fn fetch(flags: &FetchFlags) -> Result<Answer, ApiError> {
    if flags.what != Fetched::Jwt && (flags.spiffe_id.is_some() || !flags.audience.is_empty()) {
        return Err(ApiError::Usage("--audience and --spiffe-id go with jwt".to_owned()));
    }
    match tokio::time::timeout(PATIENCE, ask(flags)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ApiError::Answer(Status::deadline_exceeded("nothing within ten seconds"))),
    }
}

async fn ask(flags: &FetchFlags) -> Result<Answer, ApiError> {
    let FetchFlags { what, socket, write, audience, spiffe_id } = flags;
    let directory = write.as_deref();
    let mut client = connect(socket).await?;
    let data = match what {
        Fetched::Jwt => {
            let spiffe_id = spiffe_id.clone().unwrap_or_default();
            let request = JwtsvidRequest { audience: audience.clone(), spiffe_id };
            return show_tokens(&mut client, request, directory).await;
        }
        Fetched::X509 => {
            let mut answers =
                client.fetch_x509svid(marked(X509svidRequest {})).await.map_err(judge)?.into_inner();
            show_svids(answers.message().await.map_err(judge)?.ok_or_else(nothing)?, directory)?
        }
        Fetched::Bundle => {
            let asked = marked(X509BundlesRequest {});
            let mut answers = client.fetch_x509_bundles(asked).await.map_err(judge)?.into_inner();
            let answer = answers.message().await.map_err(judge)?.ok_or_else(nothing)?;
            put_lists(directory, &answer.crl)?;
            let mut text = String::new();
            for (number, (id, der)) in answer.bundles.into_iter().enumerate() {
                let bundle = read_bundle(bare(&id), &der)?;
                describe_bundle(&mut text, &bundle);
                put(directory, &format!("bundle.{number}.pem"), bundle.to_pem().as_bytes())?;
            }
            text
        }
    };
    Ok(Answer { data, remarks: String::new() })
}

/// Tokens alone are what was asked for: `$(hauberk-agent api fetch jwt …)` is one.
async fn show_tokens(
    client: &mut Client,
    request: JwtsvidRequest,
    directory: Option<&Path>,
) -> Result<Answer, ApiError> {
    let audience = request.audience.first().cloned().unwrap_or_default();
    let svids = client.fetch_jwtsvid(marked(request)).await.map_err(judge)?.into_inner().svids;
    let mut answer = Answer::default();
    for (number, one) in svids.into_iter().enumerate() {
        let token = Zeroizing::new(one.svid);
        put(directory, &format!("jwt.{number}.token"), token.as_bytes())?;
        let until = expiry(client, &token, &audience).await?;
        answer.remarks += &format!("{}{} until {until}\n", one.spiffe_id, shown(&one.hint));
        answer.data += &format!("{}\n", token.as_str());
    }
    Ok(answer)
}

fn show_svids(answer: X509svidResponse, directory: Option<&Path>) -> Result<String, ApiError> {
    let mut text = String::new();
    for (number, one) in answer.svids.into_iter().enumerate() {
        let svid = Svid::from_concatenated_der(&one.x509_svid)?;
        let key = KeyPair::from_pkcs8_der(&Zeroizing::new(one.x509_svid_key))?;
        let bundle = read_bundle(svid.id().trust_domain().as_str(), &one.bundle)?;
        let hint = shown(&one.hint);
        let _infallible = writeln!(
            text,
            "{}{hint}\n  serial {}\n  valid until {}",
            svid.id(),
            svid.serial(),
            svid.validity().not_after(),
        );
        describe_bundle(&mut text, &bundle);
        put(directory, &format!("svid.{number}.pem"), svid.to_pem().as_bytes())?;
        put(directory, &format!("svid.{number}.key"), key.to_pkcs8_pem().as_bytes())?;
        put(directory, &format!("bundle.{number}.pem"), bundle.to_pem().as_bytes())?;
    }
    put_lists(directory, &answer.crl)?;
    let mut names = Vec::new();
    for (id, der) in answer.federated_bundles {
        let bundle = read_bundle(bare(&id), &der)?;
        describe_bundle(&mut text, &bundle);
        let name = format!("{FEDERATED}{}.pem", bundle.trust_domain());
        put(directory, &name, bundle.to_pem().as_bytes())?;
        names.push(name);
    }
    directory.map_or(Ok(()), |directory| forget_others(directory, &names))?;
    Ok(text)
}

/// The revocation lists, where there are any.
fn put_lists(directory: Option<&Path>, lists: &[Vec<u8>]) -> Result<(), ApiError> {
    if lists.is_empty() {
        return directory.map_or(Ok(()), |directory| forget(&directory.join("crl.pem")));
    }
    put(directory, "crl.pem", lists.iter().map(|der| crl_to_pem(der)).collect::<String>().as_bytes())
}

/// Removes what an earlier call may have written.
fn forget(path: &Path) -> Result<(), ApiError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ApiError::Write { path: path.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// Removes roots that an earlier call has written, of trust domains that are followed no longer.
fn forget_others(directory: &Path, names: &[String]) -> Result<(), ApiError> {
    let forget = || -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = |name: &&str| name.starts_with(FEDERATED) && name.ends_with(".pem");
            if name.to_str().filter(is_ours).is_some_and(|name| !names.iter().any(|kept| kept == name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    forget().map_err(|source| ApiError::Write { path: directory.display().to_string(), source })
}

fn shown(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("  hint {}", hint.escape_default()) }
}

fn describe_bundle(text: &mut String, bundle: &TrustBundle) {
    for root in bundle.roots() {
        let not_after = root.validity().not_after();
        let _infallible =
            writeln!(text, "  root of {} {} until {not_after}", bundle.trust_domain(), root.fingerprint());
    }
}

fn put(directory: Option<&Path>, name: &str, content: &[u8]) -> Result<(), ApiError> {
    let Some(directory) = directory else { return Ok(()) };
    replace_among_others(directory, name, content)
        .map_err(|source| ApiError::Write { path: directory.join(name).display().to_string(), source })
}
