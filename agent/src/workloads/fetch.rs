//! `hauberk-agent api fetch`: what a program is given by the Workload API, for people and for programs that only read
//! files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use hauberk_identity::TrustDomain;
use hauberk_proto::workload::{
    JwtsvidRequest, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
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

/// The file of revocation lists.
const LISTS: &str = "crl.pem";

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
    let mut files = Files::new(*what, write.as_deref());
    let mut client = connect(socket).await?;
    let answer = match what {
        Fetched::Jwt => {
            let spiffe_id = spiffe_id.clone().unwrap_or_default();
            let request = JwtsvidRequest { audience: audience.clone(), spiffe_id };
            show_tokens(&mut client, request, &mut files).await?
        }
        Fetched::X509 => Answer::of(show_svids(ask_svids(&mut client).await?, &mut files)?),
        Fetched::Bundle => {
            let asked = marked(X509BundlesRequest {});
            let mut answers = client.fetch_x509_bundles(asked).await.map_err(judge)?.into_inner();
            let answer = answers.message().await.map_err(judge)?.ok_or_else(nothing)?;
            let own = own_trust_domain(&mut client, &answer).await?;
            Answer::of(show_bundles(answer, &own, &mut files)?)
        }
    };
    files.tidy()?;
    Ok(answer)
}

impl Answer {
    fn of(data: String) -> Self {
        Self { data, remarks: String::new() }
    }
}

async fn ask_svids(client: &mut Client) -> Result<X509svidResponse, ApiError> {
    let mut answers = client.fetch_x509svid(marked(X509svidRequest {})).await.map_err(judge)?.into_inner();
    answers.message().await.map_err(judge)?.ok_or_else(nothing)
}

/// Which of these bundles is our own trust domain's. The answer does not say so, and it holds ours in any case.
async fn own_trust_domain(
    client: &mut Client,
    answer: &X509BundlesResponse,
) -> Result<TrustDomain, ApiError> {
    let mut ids = answer.bundles.keys();
    if let (Some(only), None) = (ids.next(), ids.next()) {
        return Ok(TrustDomain::parse(bare(only))?);
    }
    let mut own = None;
    for one in ask_svids(client).await?.svids {
        drop(Zeroizing::new(one.x509_svid_key));
        own = own.or(Some(Svid::from_concatenated_der(&one.x509_svid)?.id().trust_domain().clone()));
    }
    own.ok_or_else(nothing)
}

/// The roots of our own trust domain are in the files where `api fetch x509` puts them, and no others are.
fn show_bundles(
    answer: X509BundlesResponse,
    own: &TrustDomain,
    files: &mut Files<'_>,
) -> Result<String, ApiError> {
    let bundles = answer.bundles.into_iter().map(|(id, der)| read_bundle(bare(&id), &der));
    let bundles = bundles.collect::<Result<Vec<_>, _>>()?;
    let (ours, others): (Vec<_>, Vec<_>) =
        bundles.into_iter().partition(|bundle| bundle.trust_domain() == own);
    let ours = ours.first().ok_or_else(|| {
        ApiError::Answer(Status::internal(format!("it lacks the roots of our own trust domain, {own}")))
    })?;
    let mut text = String::new();
    describe_bundle(&mut text, ours);
    for number in files.numbers_of_svids()? {
        files.put(&format!("bundle.{number}.pem"), ours.to_pem().as_bytes())?;
    }
    for bundle in &others {
        describe_bundle(&mut text, bundle);
        files.put_federated(bundle)?;
    }
    files.put_lists(&answer.crl)?;
    Ok(text)
}

/// Tokens alone are what was asked for: `$(hauberk-agent api fetch jwt …)` is one.
async fn show_tokens(
    client: &mut Client,
    request: JwtsvidRequest,
    files: &mut Files<'_>,
) -> Result<Answer, ApiError> {
    let audience = request.audience.first().cloned().unwrap_or_default();
    let svids = client.fetch_jwtsvid(marked(request)).await.map_err(judge)?.into_inner().svids;
    let mut answer = Answer::default();
    for (number, one) in svids.into_iter().enumerate() {
        let token = Zeroizing::new(one.svid);
        files.put(&format!("jwt.{number}.token"), token.as_bytes())?;
        let until = expiry(client, &token, &audience).await?;
        answer.remarks += &format!("{}{} until {until}\n", one.spiffe_id, shown(&one.hint));
        answer.data += &format!("{}\n", token.as_str());
    }
    Ok(answer)
}

fn show_svids(answer: X509svidResponse, files: &mut Files<'_>) -> Result<String, ApiError> {
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
        files.put(&format!("svid.{number}.pem"), svid.to_pem().as_bytes())?;
        files.put(&format!("svid.{number}.key"), key.to_pkcs8_pem().as_bytes())?;
        files.put(&format!("bundle.{number}.pem"), bundle.to_pem().as_bytes())?;
    }
    files.put_lists(&answer.crl)?;
    for (id, der) in answer.federated_bundles {
        let bundle = read_bundle(bare(&id), &der)?;
        describe_bundle(&mut text, &bundle);
        files.put_federated(&bundle)?;
    }
    Ok(text)
}

/// The files that an answer is written to, if it is.
struct Files<'a> {
    what: Fetched,
    directory: Option<&'a Path>,
    written: BTreeSet<String>,
}

impl<'a> Files<'a> {
    fn new(what: Fetched, directory: Option<&'a Path>) -> Self {
        Self { what, directory, written: BTreeSet::new() }
    }

    fn put(&mut self, name: &str, content: &[u8]) -> Result<(), ApiError> {
        let Some(directory) = self.directory else { return Ok(()) };
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| ApiError::Write { path, source }
        };
        // As `api watch` makes it.
        if !directory.exists() {
            DirBuilder::new().mode(0o755).create(directory).map_err(failed(directory))?;
        }
        replace_among_others(directory, name, content).map_err(failed(&directory.join(name)))?;
        self.written.insert(name.to_owned());
        Ok(())
    }

    /// The revocation lists, where there are any.
    fn put_lists(&mut self, lists: &[Vec<u8>]) -> Result<(), ApiError> {
        if lists.is_empty() {
            return Ok(());
        }
        self.put(LISTS, lists.iter().map(|der| crl_to_pem(der)).collect::<String>().as_bytes())
    }

    fn put_federated(&mut self, bundle: &TrustBundle) -> Result<(), ApiError> {
        self.put(&format!("{FEDERATED}{}.pem", bundle.trust_domain()), bundle.to_pem().as_bytes())
    }

    /// Those of the certificates that are there, beside which roots are looked for; the first one's in any case.
    fn numbers_of_svids(&self) -> Result<BTreeSet<u32>, ApiError> {
        let names = self.names(Fetched::X509)?;
        let there = names.iter().filter_map(|name| number(name, "svid.", ".pem"));
        Ok(there.chain([0]).collect())
    }

    /// Removes what an earlier call has written and this one has not: identities that were withdrawn, roots of trust
    /// domains that are followed no longer. Whatever else is in the directory stays.
    fn tidy(self) -> Result<(), ApiError> {
        let Some(directory) = self.directory else { return Ok(()) };
        for name in self.names(self.what)?.into_iter().filter(|name| !self.written.contains(name)) {
            let path = directory.join(&name);
            // A link is removed, not what it leads to.
            let removed = fs::symlink_metadata(&path).and_then(|found| match found.is_dir() {
                true => Ok(()),
                false => fs::remove_file(&path),
            });
            match removed {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(ApiError::Write { path: path.display().to_string(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The names in the directory that a call for this writes.
    fn names(&self, what: Fetched) -> Result<Vec<String>, ApiError> {
        let Some(directory) = self.directory.filter(|directory| directory.exists()) else {
            return Ok(Vec::new());
        };
        let names = || -> io::Result<Vec<String>> {
            let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
            let names = names.collect::<io::Result<Vec<_>>>()?;
            Ok(names.into_iter().flatten().filter(|name| is_written_by(what, name)).collect())
        };
        names().map_err(|source| ApiError::Write { path: directory.display().to_string(), source })
    }
}

/// Whether this is the name of a file that `api fetch` of this writes.
fn is_written_by(what: Fetched, name: &str) -> bool {
    let is_federated = || {
        let trust_domain = name.strip_prefix(FEDERATED).and_then(|rest| rest.strip_suffix(".pem"));
        trust_domain.is_some_and(|text| TrustDomain::parse(text).is_ok())
    };
    let is_numbered = |before: &str, after: &str| number(name, before, after).is_some();
    match what {
        Fetched::X509 => {
            is_numbered("svid.", ".pem")
                || is_numbered("svid.", ".key")
                || is_written_by(Fetched::Bundle, name)
        }
        Fetched::Bundle => is_numbered("bundle.", ".pem") || name == LISTS || is_federated(),
        Fetched::Jwt => is_numbered("jwt.", ".token"),
    }
}

/// The number in a name, written as we write it.
fn number(name: &str, before: &str, after: &str) -> Option<u32> {
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    digits.parse().ok().filter(|number: &u32| number.to_string() == digits)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use hauberk_identity::Serial;
    use hauberk_proto::workload::X509svid;
    use hauberk_tls::RootAuthority;

    use super::*;
    use crate::testing::{Authorities, HOUR, around};

    const OURS: &str = "shop.local";

    fn der(bundle: &TrustBundle) -> Vec<u8> {
        bundle.roots().iter().flat_map(|root| root.der().iter().copied()).collect()
    }

    fn foreign(name: &str) -> TrustBundle {
        let domain = TrustDomain::parse(name).unwrap();
        let root = RootAuthority::create(&domain, around(HOUR), Serial::from_random([9; 16])).unwrap();
        TrustBundle::new(domain, [root.certificate().clone()]).unwrap()
    }

    /// By the id of each trust domain.
    fn by_id<'a>(bundles: impl IntoIterator<Item = &'a TrustBundle>) -> BTreeMap<String, Vec<u8>> {
        bundles.into_iter().map(|bundle| (bundle.trust_domain().id_string(), der(bundle))).collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As `api fetch x509` writes so many identities of a program that is given these bundles.
    fn fetch_svids(authorities: &Authorities, count: usize, others: &[&TrustBundle], directory: &Path) {
        let svids = (0..count).map(|number| {
            let key = KeyPair::generate().unwrap();
            let svid = authorities.sign(&format!("workload/{number}"), key.public_key(), around(HOUR));
            X509svid {
                spiffe_id: svid.id().to_string(),
                x509_svid: svid.chain().iter().flat_map(|der| der.iter().copied()).collect(),
                x509_svid_key: key.to_pkcs8_der().to_vec(),
                bundle: der(authorities.issuing.root_bundle()),
                hint: String::new(),
            }
        });
        let answer = X509svidResponse {
            svids: svids.collect(),
            crl: Vec::new(),
            federated_bundles: by_id(others.iter().copied()),
        };
        let mut files = Files::new(Fetched::X509, Some(directory));
        show_svids(answer, &mut files).unwrap();
        files.tidy().unwrap();
    }

    fn fetch_bundles(own: &TrustBundle, others: &[&TrustBundle], directory: &Path) -> String {
        let bundles = by_id([own].into_iter().chain(others.iter().copied()));
        let answer = X509BundlesResponse { bundles, crl: Vec::new() };
        let mut files = Files::new(Fetched::Bundle, Some(directory));
        let text = show_bundles(answer, own.trust_domain(), &mut files).unwrap();
        files.tidy().unwrap();
        text
    }

    #[test]
    fn roots_of_another_trust_domain_never_stand_where_ours_are_looked_for() {
        hauberk_tls::install_provider();
        let authorities = Authorities::new();
        let own = authorities.issuing.root_bundle();
        // Names before ours and after it.
        for name in ["a.example", "z.example"] {
            let (folder, other) = (tempfile::tempdir().unwrap(), foreign(name));
            let directory = folder.path();
            fetch_svids(&authorities, 2, &[&other], directory);
            // An earlier release has left the other's here.
            for number in [1, 2] {
                fs::write(directory.join(format!("bundle.{number}.pem")), other.to_pem()).unwrap();
            }
            let text = fetch_bundles(own, &[&other], directory);
            assert!(text.starts_with(&format!("  root of {OURS} ")), "{text}");
            let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
            for number in [0, 1] {
                assert_eq!(read(&format!("bundle.{number}.pem")), own.to_pem(), "{name}");
            }
            assert_eq!(read(&format!("federated.{name}.pem")), other.to_pem());
            assert!(!directory.join("bundle.2.pem").exists(), "there is no certificate beside it");
            assert!(directory.join("svid.1.key").exists(), "nobody asked about that");

            fetch_bundles(own, &[], directory);
            assert!(!directory.join(format!("federated.{name}.pem")).exists());
        }
        let nobody = TrustDomain::parse("nobody.example").unwrap();
        let answer = X509BundlesResponse { bundles: by_id([own]), crl: Vec::new() };
        let lacking = show_bundles(answer, &nobody, &mut Files::new(Fetched::Bundle, None)).unwrap_err();
        assert!(lacking.to_string().contains("nobody.example"), "{lacking}");
    }

    #[test]
    fn what_was_withdrawn_goes_and_nothing_else_does() {
        let authorities = Authorities::new();
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = folder.path();
        let target = elsewhere.path().join("theirs");
        fs::write(&target, "theirs").unwrap();
        let others = ["svid.01.pem", "svid.x.key", "svid.pem", "federated..pem", "jwt.0.token", "bundle.pem"];
        for name in others {
            fs::write(directory.join(name), "not ours").unwrap();
        }
        fs::create_dir(directory.join("bundle.7.pem")).unwrap();
        fs::write(directory.join("crl.pem"), "of before").unwrap();
        fetch_svids(&authorities, 3, &[], directory);
        symlink(&target, directory.join("svid.9.key")).unwrap();
        fetch_svids(&authorities, 1, &[], directory);
        let mut expected =
            [&["bundle.0.pem", "bundle.7.pem", "svid.0.key", "svid.0.pem"][..], &others].concat();
        expected.sort_unstable();
        assert_eq!(names(directory), expected);
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs", "a link is not followed");

        fs::write(directory.join("jwt.3.token"), "of before").unwrap();
        let mut files = Files::new(Fetched::Jwt, Some(directory));
        files.put("jwt.0.token", b"token").unwrap();
        files.tidy().unwrap();
        assert_eq!(names(directory), expected);
    }
}
