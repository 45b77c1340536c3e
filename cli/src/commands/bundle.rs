//! `hauberk bundle`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1 as api;

use crate::arguments::{BundleCommand, BundleFormat, Global};
use crate::clock;
use crate::commands::{describe::fact, get};
use crate::documents::{Defaults, tree_of};
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::session::Session;
use crate::times;

const HEADERS: [&str; 7] = ["TRUST-DOMAIN", "MESH", "ROOTS", "TOKEN-KEYS", "SEQUENCE", "FETCHED", "PROBLEM"];

/// Runs the command.
///
/// # Errors
/// There is no such bundle, or what the control plane answers.
pub(crate) async fn run(global: &Global, command: BundleCommand) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    match command {
        BundleCommand::Show { trust_domain: None, output } => list(&session, output).await,
        BundleCommand::Show { trust_domain: Some(name), output: Format::Table | Format::Wide } => {
            let bundle = find(&session, &name).await?;
            fact("Trust domain", &bundle.trust_domain)?;
            if !bundle.mesh.is_empty() {
                fact("Followed by", &format!("mesh {}", bundle.mesh))?;
            }
            facts(&bundle)
        }
        BundleCommand::Show { trust_domain: Some(name), output } => {
            show(output, &[find(&session, &name).await?])
        }
        BundleCommand::Export { trust_domain, format } => {
            let bundle = find(&session, trust_domain.as_deref().unwrap_or_default()).await?;
            match format {
                BundleFormat::Spiffe if bundle.document.is_empty() => {
                    Err(CommandError::failed(format!("there is no bundle of {} yet", bundle.trust_domain)))
                }
                BundleFormat::Spiffe => output::line(&bundle.document),
                BundleFormat::Pem => output::raw(&bundle.pem),
            }
        }
        BundleCommand::Refresh { trust_domain, issuer } => {
            let (trust_domain, issuer) = (trust_domain.unwrap_or_default(), issuer.unwrap_or_default());
            let request = api::RefreshBundleRequest { mesh: session.mesh().await?, trust_domain, issuer };
            let name = request.issuer.clone();
            match session.federation().refresh_bundle(request).await?.into_inner().bundle {
                Some(bundle) => show(Format::Table, &[bundle]),
                None => output::line(format_args!(
                    "the keys of jwtissuer/{name} are in force as they are served now"
                )),
            }
        }
    }
}

/// What is known of a bundle beside whose it is.
pub(crate) fn facts(bundle: &api::Bundle) -> Result<(), CommandError> {
    let now = clock::now();
    if !bundle.endpoint_url.is_empty() {
        let fetched = times::age(bundle.fetched_at.as_ref(), now);
        let fetched = if bundle.fetched_at.is_some() { format!("{fetched} ago") } else { "never".to_owned() };
        fact("Fetched", &fetched)?;
    }
    if !bundle.problem.is_empty() {
        fact("Failing", &format!("{}: {}", times::age(bundle.failing_since.as_ref(), now), bundle.problem))?;
    }
    fact("Sequence", &sequence(bundle))?;
    fact("Token keys", &bundle.jwt_keys.to_string())?;
    match bundle.fingerprints.as_slice() {
        [] => fact("Roots", "none: nobody of it is let in"),
        roots => roots.iter().try_for_each(|root| fact("Root", root)),
    }
}

async fn list(session: &Session, format: Format) -> Result<(), CommandError> {
    let mesh = session.named_mesh().unwrap_or_default().to_owned();
    let request = api::ListBundlesRequest { mesh: mesh.clone() };
    let bundles = session.federation().list_bundles(request).await?.into_inner().bundles;
    // Our own is in any list.
    if bundles.iter().all(|bundle| bundle.mesh.is_empty()) {
        session.check_mesh(&mesh).await?;
    }
    show(format, &bundles)
}

/// The bundle of a trust domain; of ours where none is named.
async fn find(session: &Session, trust_domain: &str) -> Result<api::Bundle, CommandError> {
    let mesh = session.named_mesh().unwrap_or_default().to_owned();
    let request = api::ListBundlesRequest { mesh: mesh.clone() };
    let bundles = session.federation().list_bundles(request).await?.into_inner().bundles;
    if !trust_domain.is_empty() && bundles.iter().all(|bundle| bundle.mesh.is_empty()) {
        session.check_mesh(&mesh).await?;
    }
    let is_meant = |bundle: &api::Bundle| match trust_domain {
        "" => bundle.mesh.is_empty(),
        named => bundle.trust_domain == named,
    };
    let mut found = bundles.into_iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(_)) => {
            let name = output::printable(&one.trust_domain);
            Err(CommandError::Usage(format!("several meshes follow {name}: say --mesh NAME")))
        }
        (None, _) => Err(CommandError::advised(
            format!("no mesh follows `{}`", output::printable(trust_domain)),
            format!("`hauberk bundle show{}` lists those that are followed", session.of_context()),
        )),
    }
}

fn show(format: Format, bundles: &[api::Bundle]) -> Result<(), CommandError> {
    let now = clock::now();
    let rows = bundles.iter().map(|bundle| row(bundle, now)).collect();
    let tree = |bundle| tree_of("hauberk.admin.v1.Bundle", bundle, Defaults::Show);
    let trees = bundles.iter().map(tree).collect();
    let names = bundles.iter().map(|bundle| format!("bundle/{}", bundle.trust_domain)).collect();
    get::show(format, "bundle", &HEADERS, rows, trees, names)
}

fn row(bundle: &api::Bundle, now: UnixMillis) -> Vec<String> {
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let fetched = match (&bundle.fetched_at, bundle.mesh.is_empty(), bundle.endpoint_url.is_empty()) {
        (_, true, _) => "-".to_owned(),
        (Some(_), ..) => format!("{} ago", times::age(bundle.fetched_at.as_ref(), now)),
        (None, _, true) => "static".to_owned(),
        (None, ..) => "never".to_owned(),
    };
    vec![
        bundle.trust_domain.clone(),
        if bundle.mesh.is_empty() { "(our own)".to_owned() } else { bundle.mesh.clone() },
        bundle.fingerprints.len().to_string(),
        bundle.jwt_keys.to_string(),
        sequence(bundle),
        fetched,
        or(&bundle.problem, "-"),
    ]
}

fn sequence(bundle: &api::Bundle) -> String {
    if bundle.sequence == 0 { "-".to_owned() } else { bundle.sequence.to_string() }
}
