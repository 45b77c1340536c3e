//! `hauberk authority csr`, `install` and `sign`: authorities under somebody else's root.

use std::io::Read as _;
use std::path::Path;

use hauberk_proto::admin::v1 as api;
use hauberk_tls::{CertificateDer, CertificateRequest};
use hauberk_tls::{certificates_from_pem, certificates_to_pem, is_self_issued};

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
         with OpenSSL 3:\n  \
           openssl x509 -req -in {file} -CA root.pem -CAkey root.key -days 90 -copy_extensions copy -out issuing.pem\n\
         then, with the certificates between it and the root, if there are any:\n  \
           hauberk authority install issuing.pem root.pem",
        domain = answer.trust_domain,
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
        None => Vec::new(),
        Some(file) => match certificates(file)?.as_slice() {
            [root] => root.to_vec(),
            several => {
                let (file, count) = (file.display(), several.len());
                return Err(CommandError::Usage(format!(
                    "--root: {file} holds {count} certificates; the root is one"
                )));
            }
        },
    };
    let certificates = given.iter().map(|der| der.to_vec()).collect();
    let request = api::InstallAuthorityRequest { certificates, root, exclusive };
    let authority = session.authorities().install_authority(request).await?.into_inner().authority;
    let authority = authority.unwrap_or_default();
    told(&authority)?;
    if !given.iter().all(is_self_issued) {
        output::note(format_args!("next: hauberk authority activate {} --wait", authority.serial));
    } else if exclusive.is_none() || authority.state == "prepared" {
        output::note(
            "everybody is told to trust what was given; nothing stands under it yet. Next: hauberk authority csr",
        );
    }
    Ok(())
}

/// Has the control plane sign another one's request.
pub(super) async fn sign(session: &Session, file: &Path, out: Option<&Path>) -> Result<(), CommandError> {
    let csr = CertificateRequest::from_pem(&read(file)?)
        .map_err(|error| CommandError::Usage(format!("{}: {error}", file.display())))?;
    let answer = session.authorities().sign_authority(api::SignAuthorityRequest { csr }).await?.into_inner();
    let certificates: Vec<_> = answer.certificates.into_iter().map(CertificateDer::from).collect();
    write(out, &certificates_to_pem(&certificates))?;
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
