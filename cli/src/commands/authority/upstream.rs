//! `hauberk authority csr`, `install` and `sign`: authorities under somebody else's root.

use std::io::Read as _;
use std::path::Path;

use hauberk_proto::admin::v1 as api;
use hauberk_tls::{CertificateDer, CertificateRequest};
use hauberk_tls::{certificates_from_pem, certificates_to_pem, is_self_issued};
use owo_colors::OwoColorize as _;

use super::told;
use crate::context::write_private;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// Certificates and requests are far shorter.
const LARGEST_FILE: u64 = 1 << 20;

/// Prints the request that waits, and what is to be signed.
pub(super) async fn request(session: &Session, anew: bool, out: Option<&Path>) -> Result<(), CommandError> {
    let answer = session.authorities().request_authority(api::RequestAuthorityRequest { anew }).await?;
    let answer = answer.into_inner();
    write(out, &CertificateRequest::to_pem(&answer.csr))?;
    let file = out.map_or_else(|| "request.pem".to_owned(), |path| path.display().to_string());
    output::note(format_args!(
        "a request for an issuing authority of {domain}; its key stays with the control plane. What is signed must have:\n  \
           basicConstraints    critical, CA:TRUE, pathlen:0\n  \
           keyUsage            critical, keyCertSign and cRLSign\n  \
           subjectAltName      URI:spiffe://{domain}\n  \
           subjectKeyIdentifier and authorityKeyIdentifier\n  \
           an end no later than that of anybody above it, and a random serial number\n\
         and the root, besides basicConstraints (critical, CA:TRUE) and a subjectKeyIdentifier:\n  \
           keyUsage            critical, keyCertSign and cRLSign\n\
         with OpenSSL 3:\n  \
           openssl x509 -req -in {file} -CA root.pem -CAkey root.key -days 90 -copy_extensions copy -out issuing.pem\n\
         then, with the certificates between it and the root, if there are any:\n  \
           hauberk authority install issuing.pem root.pem{of_context}",
        domain = answer.trust_domain,
        of_context = session.of_context(),
    ));
    Ok(())
}

/// Has the control plane take in what was signed.
pub(super) async fn install(
    session: &Session,
    files: &[std::path::PathBuf],
    root: Option<&Path>,
    exclusive: Option<bool>,
) -> Result<(), CommandError> {
    let mut given = Vec::new();
    for file in files {
        given.extend(certificates(file)?);
    }
    let root = match root {
        None => None,
        Some(file) => match certificates(file)?.as_slice() {
            [root] => Some(root.clone()),
            several => {
                let (file, count) = (file.display(), several.len());
                return Err(CommandError::Usage(format!(
                    "--root: {file} holds {count} certificates; the root is one"
                )));
            }
        },
    };
    let certificates = given.iter().map(|der| der.to_vec()).collect();
    let named = root.as_ref().map(|root| root.to_vec()).unwrap_or_default();
    let request = api::InstallAuthorityRequest { certificates, root: named, exclusive };
    let authority = session.authorities().install_authority(request).await?.into_inner().authority;
    let (authority, of_context) = (authority.unwrap_or_default(), session.of_context());
    told(&authority)?;
    let listed = session.authorities().list_authorities(api::ListAuthoritiesRequest {}).await;
    let listed = match listed {
        Ok(listed) => listed.into_inner().authorities,
        Err(status) => return unlisted(exclusive, &authority, status.into(), of_context),
    };
    let installed = root_of(&authority, &listed);
    check_exclusive(exclusive, &authority, installed, of_context)?;
    if let Some(warning) = without_lists(installed, &listed, of_context) {
        output::note(format_args!("{} {warning}", "warning:".yellow().bold()));
    }
    let are_roots = given.iter().all(|der| is_self_issued(der) || root.as_ref() == Some(der));
    let roots = if are_roots { given.len() } else { 0 };
    if let Some(step) = next_step((roots, exclusive.is_some()), &authority, &listed, of_context) {
        output::note(step);
    }
    Ok(())
}

/// What to say where what else is trusted could not be asked: what was given is installed all the same.
fn unlisted(
    exclusive: Option<bool>,
    authority: &api::Authority,
    why: CommandError,
    of_context: &str,
) -> Result<(), CommandError> {
    let message = format!("installed; what else is trusted could not be asked: {why}");
    let is_noted = check_exclusive(exclusive, authority, root_of(authority, &[]), of_context).is_ok();
    if exclusive == Some(true) && !is_noted {
        let help = format!("whether its root is noted as exclusive: hauberk authority list{of_context}");
        return Err(CommandError::advised(message, help));
    }
    output::note(message);
    Ok(())
}

/// What is to be done next. `roots`: so many were given, and nothing else; `is_again`: perhaps one that had been before.
fn next_step(
    (roots, is_again): (usize, bool),
    authority: &api::Authority,
    listed: &[api::Authority],
    of_context: &str,
) -> Option<String> {
    let activate = |serial: &str| {
        let serial = output::printable(serial);
        Some(format!("next: hauberk authority activate {serial} --wait{of_context}"))
    };
    if roots == 0 {
        return activate(&authority.serial);
    }
    let under = |root: &str| {
        let root = root.to_owned();
        listed.iter().filter(move |other| {
            let stands = ["prepared", "active", "retiring"].contains(&other.state.as_str());
            stands && other.kind() == api::AuthorityKind::Issuing && other.root == root
        })
    };
    let is_bare = |root: &api::Authority| {
        let is_prepared = root.kind() == api::AuthorityKind::Root && root.state == "prepared";
        is_prepared && under(&root.serial).next().is_none()
    };
    // Of several the answer names one, and perhaps not the new one.
    let is_new = roots > 1 && listed.iter().any(is_bare);
    let mut under = under(&authority.serial);
    match under.clone().next() {
        Some(_) if !is_new => {
            under.find(|other| other.state == "prepared").and_then(|other| activate(&other.serial))
        }
        None if is_again && authority.state != "prepared" && !is_new => None,
        _ => Some(format!(
            "everybody is told to trust what was given; nothing stands under it yet. Next: hauberk authority csr{of_context}"
        )),
    }
}

/// The root that was installed, or that what was installed stands under.
fn root_of<'a>(authority: &'a api::Authority, listed: &'a [api::Authority]) -> Option<&'a api::Authority> {
    match authority.kind() {
        api::AuthorityKind::Root => Some(authority),
        _ => listed.iter().find(|other| is_root(other) && other.serial == authority.root),
    }
}

/// Fails where the control plane has not noted that the root is exclusive: an earlier one knows of nothing of the kind,
/// and takes the rest of the request.
fn check_exclusive(
    exclusive: Option<bool>,
    authority: &api::Authority,
    root: Option<&api::Authority>,
    of_context: &str,
) -> Result<(), CommandError> {
    if exclusive != Some(true) || root.is_some_and(|root| root.exclusive) {
        return Ok(());
    }
    let serial = output::printable(&authority.serial);
    Err(CommandError::advised(
        format!(
            "authority/{serial} is installed, but the control plane, which is of a former release, has not noted that its root is \
             exclusive: Envoys are given no revocation lists"
        ),
        format!("update it, then say so: hauberk authority install ROOT --exclusive{of_context}"),
    ))
}

/// That Envoys lose the lists that an exclusive root gave them.
fn without_lists(
    root: Option<&api::Authority>,
    listed: &[api::Authority],
    of_context: &str,
) -> Option<String> {
    let root = root.filter(|root| root.upstream && !root.exclusive)?;
    let is_exclusive = |other: &api::Authority| is_root(other) && other.exclusive && other.state != "retired";
    listed.iter().any(is_exclusive).then(|| {
        format!(
            "Envoys are given no revocation lists from now on: root {} is trusted beside an exclusive one, and others may sign \
             members under it. Where nobody else does, say so: hauberk authority install ROOT --exclusive{of_context}",
            output::printable(&root.serial)
        )
    })
}

fn is_root(authority: &api::Authority) -> bool {
    authority.kind() == api::AuthorityKind::Root
}

/// Has the control plane sign another one's request.
pub(super) async fn sign(session: &Session, file: &Path, out: Option<&Path>) -> Result<(), CommandError> {
    let csr = CertificateRequest::from_pem(&read(file)?)
        .map_err(|error| CommandError::Usage(format!("{}: {error}", file.display())))?;
    let answer = session.authorities().sign_authority(api::SignAuthorityRequest { csr }).await?.into_inner();
    let certificates: Vec<_> = answer.certificates.into_iter().map(CertificateDer::from).collect();
    write(out, &certificates_to_pem(&certificates))?;
    // That is another control plane, of another context.
    output::note("where it was requested: hauberk authority install FILE");
    Ok(())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CommandError> {
    let name = file.display();
    let found = certificates_from_pem(&read(file)?)
        .map_err(|error| CommandError::Usage(format!("{name}: {error}")))?;
    if found.is_empty() {
        return Err(CommandError::Usage(format!("{name} holds no certificate in PEM")));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        if output::is_interactive() {
            output::note("paste it in PEM, then press Ctrl-D:");
        }
        std::io::stdin().lock().take(LARGEST_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LARGEST_FILE).read_to_string(&mut text))
    };
    read.map_err(|error| CommandError::failed(format!("cannot read {}: {error}", file.display())))?;
    Ok(text)
}

fn write(out: Option<&Path>, text: &str) -> Result<(), CommandError> {
    match out {
        None => output::raw(text),
        Some(path) => write_private(path, text.as_bytes())
            .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(serial: &str, exclusive: bool, state: &str) -> api::Authority {
        api::Authority {
            serial: serial.to_owned(),
            kind: api::AuthorityKind::Root.into(),
            state: state.to_owned(),
            upstream: true,
            exclusive,
            ..api::Authority::default()
        }
    }

    #[test]
    fn a_control_plane_that_notes_of_no_root_that_it_is_exclusive_is_found_out() {
        let issuing = api::Authority {
            serial: "0b".to_owned(),
            kind: api::AuthorityKind::Issuing.into(),
            root: "0a".to_owned(),
            ..api::Authority::default()
        };
        for (noted, exclusive, is_good) in [
            (true, Some(true), true),
            (false, Some(true), false),
            (false, Some(false), true),
            (false, None, true),
        ] {
            let listed = [root("0a", noted, "active")];
            for installed in [&listed[0], &issuing] {
                let checked = check_exclusive(exclusive, installed, root_of(installed, &listed), "");
                assert_eq!(checked.is_ok(), is_good, "{noted} {exclusive:?}");
            }
        }
        let CommandError::Failed(_, help) =
            check_exclusive(Some(true), &issuing, None, " --context prod").unwrap_err()
        else {
            panic!("it has failed");
        };
        assert!(help[0].ends_with("hauberk authority install ROOT --exclusive --context prod"), "{help:?}");
    }

    #[test]
    fn what_comes_next_depends_on_what_stands_under_the_root() {
        let under = |serial: &str, root: &str, state: &str| api::Authority {
            serial: serial.to_owned(),
            kind: api::AuthorityKind::Issuing.into(),
            root: root.to_owned(),
            state: state.to_owned(),
            ..api::Authority::default()
        };
        let (given, other) = (root("0a", false, "prepared"), under("0c", "0b", "prepared"));
        let of_context = " --context prod";
        let next = |listed: &[api::Authority]| next_step((1, false), &given, listed, of_context);
        let none = "everybody is told to trust what was given; nothing stands under it yet. Next: hauberk authority csr --context prod";
        let activate = |serial: &str| format!("next: hauberk authority activate {serial} --wait{of_context}");
        for listed in [&[given.clone(), other.clone()][..], &[under("0d", "0a", "retired")], &[]] {
            assert_eq!(next(listed).as_deref(), Some(none), "{listed:?}");
        }
        assert_eq!(next(&[other, under("0d", "0a", "prepared")]), Some(activate("0d")));
        assert_eq!(next(&[under("0d", "0a", "active")]), None);
        assert_eq!(next(&[under("0d", "0a", "active"), under("0e", "0a", "prepared")]), Some(activate("0e")));
        let issuing = under("0d", "0a", "prepared");
        assert_eq!(next_step((0, false), &issuing, &[], of_context), Some(activate("0d")));
        assert_eq!(next_step((1, true), &root("0a", true, "active"), &[], of_context), None);
        // A new root, given together with that which the active one stands under.
        let (old, new) = (root("0a", false, "active"), root("0b", false, "prepared"));
        let listed = [old.clone(), under("0d", "0a", "active"), new];
        assert_eq!(next_step((2, false), &old, &listed, of_context).as_deref(), Some(none));
        assert_eq!(next_step((1, false), &old, &listed, of_context), None);
    }

    #[test]
    fn what_is_installed_has_not_failed_where_the_rest_is_not_told() {
        let broken = || CommandError::failed("the connection broke");
        let issuing =
            api::Authority { kind: api::AuthorityKind::Issuing.into(), ..root("0b", false, "prepared") };
        for (exclusive, authority, is_good) in [
            (None, &issuing, true),
            (Some(false), &issuing, true),
            (Some(true), &issuing, false),
            (Some(true), &root("0a", true, "prepared"), true),
        ] {
            let told = unlisted(exclusive, authority, broken(), "");
            assert_eq!(told.is_ok(), is_good, "{exclusive:?}");
            if let Err(error) = told {
                let said = "installed; what else is trusted could not be asked: the connection broke";
                assert_eq!(error.to_string(), said);
            }
        }
    }

    #[test]
    fn a_root_that_takes_the_lists_from_envoys_is_warned_of() {
        let warned = |installed: &api::Authority, other: api::Authority| {
            without_lists(Some(installed), &[installed.clone(), other], "").is_some()
        };
        let next = root("0b", false, "prepared");
        assert!(warned(&next, root("0a", true, "active")) && warned(&next, root("0a", true, "retiring")));
        assert!(!warned(&next, root("0a", true, "retired")));
        assert!(!warned(&next, root("0a", false, "active")));
        assert!(!warned(&root("0b", true, "prepared"), root("0a", true, "active")));
    }
}
