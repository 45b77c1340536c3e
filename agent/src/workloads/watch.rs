//! `hauberk-agent api watch`: keeps files of what a program is given up to date, and tells the program.

mod notify;
mod signalled;
mod tokens;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hauberk_identity::{SpiffeId, TrustDomain};
use hauberk_proto::refusal;
use hauberk_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use hauberk_tls::jwt::JwtKeySet;
use hauberk_tls::{KeyPair, Svid, crl_to_pem};
use tokio::sync::watch;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::client::{ApiError, bare, connect, judge, marked, nothing, read_bundle};
use super::file_set::{SetFile, publish};
use crate::config::WatchFlags;
use crate::random::Backoff;
use notify::Notify;
use tokens::{Asked, Tokens};

/// Names that are taken.
const FIXED: [&str; 7] =
    ["svid.pem", "svid.key", "svid-and-key.pem", "bundle.pem", "crl.pem", "jwks.json", FEDERATED];

/// The folder of what other trust domains are verified by.
const FEDERATED: &str = "federated";

/// The longest sleep without looking at the clock.
const LOOK: Duration = Duration::from_secs(15);
/// And the shortest.
const SOON: Duration = Duration::from_millis(10);

/// For everybody to read.
const PUBLIC: u32 = 0o644;

/// What is wanted, checked.
struct Wanted<'a> {
    flags: &'a WatchFlags,
    spiffe_id: Option<SpiffeId>,
    /// Audiences, by the names of their files.
    tokens: BTreeMap<String, String>,
    key_mode: u32,
    notify: Notify,
}

/// What there is of it.
#[derive(Default)]
struct Found {
    x509: Option<Certificates>,
    /// The keys of each trust domain, by its SPIFFE id.
    jwks: BTreeMap<String, Vec<u8>>,
    tokens: Tokens,
}

impl Found {
    /// What is learned anew on each connection. Tokens stay: they are good as long as they say.
    fn begin_anew(&mut self) {
        (self.x509, self.jwks) = (None, BTreeMap::new());
        self.tokens.give_up();
    }

    fn take_certificates(&mut self, certificates: Certificates) {
        let before = self.x509.replace(certificates).map(|x509| x509.trust_domain);
        // Which keys are ours may be known only now.
        if before != self.x509.as_ref().map(|x509| x509.trust_domain.clone()) {
            self.replace_tokens();
        }
    }

    fn take_keys(&mut self, jwks: BTreeMap<String, Vec<u8>>) {
        self.jwks = jwks;
        self.tokens.keys_have_changed();
        self.replace_tokens();
    }

    fn take_token(&mut self, asked: Asked) {
        // It may be by a key that has gone meanwhile.
        if self.tokens.take(asked) {
            self.replace_tokens();
        }
    }

    /// Tokens whose key verifies nothing any longer are asked for again at once.
    fn replace_tokens(&mut self) {
        let keys = |jwks: &Vec<u8>| JwtKeySet::from_jwks(jwks).ok();
        let own = self.x509.as_ref().and_then(|x509| self.jwks.get(&x509.trust_domain)).and_then(keys);
        if let Some(own) = own {
            self.tokens.replace_unverifiable(&own);
        }
    }
}

struct Certificates {
    id: String,
    /// The SPIFFE id of the trust domain.
    trust_domain: String,
    files: Vec<SetFile>,
}

/// Runs until it is stopped, or, with `--once`, until the files are there.
///
/// # Errors
/// The flags do not go together, or the directory takes no files at first. An agent that is away, or knows nobody like
/// us, is waited for, and so is a disk that was full only later.
pub async fn watch(flags: &WatchFlags) -> Result<(), ApiError> {
    let wanted = Wanted::new(flags)?;
    if is_open_to_all(&flags.write) {
        say(&format!(
            "warning: everybody on this host may replace what is in {}: chmod o-w",
            flags.write.display()
        ));
    }
    let (change, changes) = watch::channel(());
    tokio::select! {
        outcome = keep(&wanted, &change) => outcome,
        () = wanted.notify.follow(changes) => Ok(()),
    }
}

/// Keeps the files, and says when they have changed.
async fn keep(wanted: &Wanted<'_>, change: &watch::Sender<()>) -> Result<(), ApiError> {
    let (mut published, mut found) = (Vec::new(), Found::default());
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut told = String::new();
    loop {
        let error = match follow(wanted, change, (&mut found, &mut published), &mut backoff).await {
            Ok(()) => return Ok(()),
            // Nothing was ever written there: the flags are wrong.
            Err(error @ ApiError::Write { .. }) if published.is_empty() => return Err(error),
            Err(error @ ApiError::NoSocket(_)) => return Err(error),
            Err(error) => {
                // Whoever waited for longer after that would have the files so much later than there is something.
                if error.has_waited() {
                    backoff.reset();
                }
                error.to_string()
            }
        };
        if told != error {
            say(&format!("{error}; the files stay as they are, and it is tried again"));
            told = error;
        }
        sleep(backoff.step()).await;
    }
}

impl<'a> Wanted<'a> {
    fn new(flags: &'a WatchFlags) -> Result<Self, ApiError> {
        let usage = |problem: String| ApiError::Usage(problem);
        let spiffe_id = flags.spiffe_id.as_deref().map(SpiffeId::parse).transpose();
        let mut tokens = BTreeMap::new();
        for text in &flags.jwt {
            let (name, audience) = text.split_once('=').unwrap_or_default();
            let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
            if !is_name || audience.is_empty() || FIXED.contains(&name) {
                return Err(usage(format!(
                    "--jwt: {text:?} is not FILE=AUDIENCE, where FILE is a new name for a file of the directory"
                )));
            }
            if tokens.insert(name.to_owned(), audience.to_owned()).is_some() {
                return Err(usage(format!("--jwt: {name} is named twice")));
            }
        }
        Ok(Self {
            flags,
            spiffe_id: spiffe_id.map_err(|error| usage(format!("--spiffe-id: {error}")))?,
            tokens,
            key_mode: key_mode(&flags.key_mode).map_err(|problem| usage(format!("--key-mode: {problem}")))?,
            notify: Notify::new(flags).map_err(usage)?,
        })
    }

    /// All files, once everything is there.
    fn files(&self, found: &mut Found) -> Option<Vec<SetFile>> {
        let is_whole = self.tokens.keys().all(|name| found.tokens.text(name).is_some());
        let x509 = found.x509.as_ref().filter(|_| is_whole)?;
        // Keys of other trust domains verify nobody of ours, and a JWK set does not say whose they are: each has a file
        // of its own.
        let jwks = found.jwks.get(&x509.trust_domain)?;
        let mut files = vec![public("jwks.json", jwks.clone())];
        for (id, jwks) in found.jwks.iter().filter(|(id, _)| **id != x509.trust_domain) {
            files.extend(federated(id, "jwks.json").map(|name| public(&name, jwks.clone())));
        }
        files.extend(x509.files.iter().map(|file| SetFile {
            name: file.name.clone(),
            content: file.content.clone(),
            mode: file.mode,
        }));
        files.extend(self.tokens.keys().filter_map(|name| {
            let content = Zeroizing::new(found.tokens.text(name)?.as_bytes().to_vec());
            Some(SetFile { name: name.clone(), content, mode: self.key_mode })
        }));
        Some(files)
    }

    fn certificates(&self, answer: X509svidResponse) -> Result<Certificates, ApiError> {
        let X509svidResponse { svids, crl, federated_bundles } = answer;
        let is_wanted =
            |one: &X509svid| self.spiffe_id.as_ref().is_none_or(|id| id.as_str() == one.spiffe_id);
        let one = svids
            .into_iter()
            .find(is_wanted)
            .ok_or_else(|| ApiError::NoIdentity(refusal::NOT_ITS_IDENTITY.to_owned()))?;
        let svid = Svid::from_concatenated_der(&one.x509_svid)?;
        let key = KeyPair::from_pkcs8_der(&Zeroizing::new(one.x509_svid_key))?.to_pkcs8_pem();
        let bundle = read_bundle(svid.id().trust_domain().as_str(), &one.bundle)?;
        let chain = svid.to_pem();
        let secret = |name: &str, content: Vec<u8>| SetFile {
            name: name.to_owned(),
            content: Zeroizing::new(content),
            mode: self.key_mode,
        };
        let mut files = vec![
            public("svid.pem", chain.clone().into_bytes()),
            secret("svid.key", key.as_bytes().to_vec()),
            secret("svid-and-key.pem", [chain.as_bytes(), key.as_bytes()].concat()),
            public("bundle.pem", bundle.to_pem().into_bytes()),
        ];
        if !crl.is_empty() {
            files.push(public(
                "crl.pem",
                crl.iter().map(|der| crl_to_pem(der)).collect::<String>().into_bytes(),
            ));
        }
        for (id, der) in federated_bundles {
            if let Some(name) = federated(&id, "pem") {
                files.push(public(&name, read_bundle(bare(&id), &der)?.to_pem().into_bytes()));
            }
        }
        Ok(Certificates { id: one.spiffe_id, trust_domain: svid.id().trust_domain().id_string(), files })
    }
}

/// Who owns a key reads it, and nobody executes it.
fn key_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o666 == 0 && mode & 0o400 != 0 => Ok(mode),
        Ok(_) => Err(format!(
            "{text} is not allowed: of 0666, the bits to read and write, with 0400 among them, such as 0640"
        )),
        Err(_) => Err(format!("{text:?} is no octal number such as 0640")),
    }
}

/// The file of another trust domain's, unless its id is none.
fn federated(id: &str, what: &str) -> Option<String> {
    let trust_domain = TrustDomain::parse(bare(id)).ok()?;
    Some(format!("{FEDERATED}/{trust_domain}.{what}"))
}

fn public(name: &str, content: Vec<u8>) -> SetFile {
    SetFile { name: name.to_owned(), content: Zeroizing::new(content), mode: PUBLIC }
}

/// Follows an agent until it is gone.
async fn follow(
    wanted: &Wanted<'_>,
    change: &watch::Sender<()>,
    (found, published): (&mut Found, &mut Vec<SetFile>),
    backoff: &mut Backoff,
) -> Result<(), ApiError> {
    found.begin_anew();
    let mut client = connect(&wanted.flags.socket).await?;
    let mut x509 = client.fetch_x509svid(marked(X509svidRequest {})).await.map_err(judge)?.into_inner();
    let mut bundles =
        client.fetch_jwt_bundles(marked(JwtBundlesRequest {})).await.map_err(judge)?.into_inner();
    loop {
        if let Some(Certificates { id, .. }) = &found.x509 {
            found.tokens.ask_due(&wanted.tokens, id, &client);
        }
        if let Some(files) = wanted.files(found) {
            if *published != files {
                put(wanted, &files)?;
                *published = files;
                if !wanted.flags.once {
                    change.send_replace(());
                }
            }
            backoff.reset();
            if wanted.flags.once {
                wanted.notify.once().await;
                return Ok(());
            }
        }
        let look = match &found.x509 {
            Some(_) => found.tokens.next_look(&wanted.tokens).clamp(SOON, LOOK),
            // Without knowing whom they name no token is asked for.
            None => LOOK,
        };
        tokio::select! {
            answer = x509.message() => {
                let answer = answer.map_err(judge)?.ok_or_else(nothing)?;
                found.take_certificates(wanted.certificates(answer)?);
            }
            answer = bundles.message() => {
                let JwtBundlesResponse { bundles } = answer.map_err(judge)?.ok_or_else(nothing)?;
                found.take_keys(bundles);
            }
            Some(asked) = found.tokens.next() => found.take_token(asked),
            () = sleep(look) => {}
        }
    }
}

fn put(wanted: &Wanted<'_>, files: &[SetFile]) -> Result<(), ApiError> {
    let directory = &wanted.flags.write;
    publish(directory, files)
        .map_err(|source| ApiError::Write { path: directory.display().to_string(), source })
}

/// Whether anybody can put keys and roots of their own in the place of those in a directory.
fn is_open_to_all(directory: &Path) -> bool {
    let mode = std::fs::metadata(directory).map_or(0, |held| held.permissions().mode());
    // In a sticky one, others replace nothing that is ours.
    mode & 0o002 != 0 && mode & 0o1000 == 0
}

fn say(problem: &str) {
    // Nobody is left to be told where standard error is gone.
    let _ = writeln!(std::io::stderr(), "hauberk-agent: {problem}");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::super::places::Places;
    use super::super::serve::serve;
    use super::super::socket::ApiSocket;
    use super::super::testing::Served;
    use super::*;
    use crate::config::{ApiCommand, Flags, Subcommand};

    #[test]
    fn a_directory_that_anybody_may_write_to_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, is_open) in [(0o755, false), (0o777, true), (0o1777, false), (0o770, false)] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_all(folder.path()), is_open, "{mode:o}");
        }
        assert!(!is_open_to_all(&folder.path().join("none")));
    }

    fn flags(arguments: &[&str]) -> WatchFlags {
        let common = ["hauberk-agent", "api", "watch", "--socket", "/s", "--write", "/d"];
        let flags = Flags::try_parse_from(common.iter().chain(arguments)).unwrap();
        let Subcommand::Api(ApiCommand::Watch(flags)) = flags.subcommand else { panic!("{arguments:?}") };
        flags
    }

    fn problem(arguments: &[&str]) -> Option<String> {
        Wanted::new(&flags(arguments)).err().map(|error| error.to_string())
    }

    #[test]
    fn which_bits_a_key_may_have_is_told() {
        for (text, mode) in [("0640", 0o640), ("400", 0o400), ("0666", 0o666)] {
            assert_eq!(key_mode(text), Ok(mode));
        }
        for text in ["0770", "0200", "0500", "1600", "01640"] {
            let problem = key_mode(text).unwrap_err();
            assert!(problem.starts_with(text) && problem.contains("0400"), "{problem}");
        }
        for text in ["rw", "0o640", "", "0890"] {
            assert!(key_mode(text).unwrap_err().contains("no octal number"));
        }
    }

    fn certificates() -> Certificates {
        Certificates {
            id: "spiffe://shop.local/workload/a".to_owned(),
            trust_domain: "spiffe://shop.local".to_owned(),
            files: vec![public("svid.pem", b"chain".to_vec())],
        }
    }

    #[test]
    fn a_token_whose_key_is_gone_after_a_reconnect_is_asked_for_again_whichever_comes_first() {
        let wanted = BTreeMap::from([("db.token".to_owned(), "db".to_owned())]);
        let no_keys = || BTreeMap::from([("spiffe://shop.local".to_owned(), br#"{"keys":[]}"#.to_vec())]);
        for keys_come_first in [true, false] {
            let mut found = Found::default();
            found.take_certificates(certificates());
            found.tokens = Tokens::holding("db.token");
            let is_due = |found: &Found| found.tokens.next_look(&wanted) == Duration::ZERO;
            assert!(!is_due(&found));
            found.begin_anew();
            if keys_come_first {
                found.take_keys(no_keys());
                found.take_certificates(certificates());
            } else {
                found.take_certificates(certificates());
                found.take_keys(no_keys());
            }
            assert!(is_due(&found), "keys first: {keys_come_first}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_nobody_yet_is_asked_again_as_soon_as_it_has_said_so() {
        let served = Served::new();
        served.front.close();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(ApiSocket::bind(&path).unwrap(), Places::new(64), Arc::clone(&served.front)));
        let mut flags = flags(&[]);
        flags.socket = path.display().to_string();
        assert!(timeout(Duration::from_secs(300), watch(&flags)).await.is_err(), "there is nothing yet");
        let page = served.front.all_metrics().text();
        let name = "hauberk_workload_denials_total{reason=\"unavailable\"} ";
        let asked: u32 = page.split_once(name).unwrap().1.lines().next().unwrap().parse().unwrap();
        assert!(asked > 40, "{asked}");
    }

    #[test]
    fn keys_of_other_trust_domains_are_not_among_ours() {
        let flags = flags(&[]);
        let wanted = Wanted::new(&flags).unwrap();
        let keys = |of: &str| (format!("spiffe://{of}"), format!("keys of {of}").into_bytes());
        let jwks = BTreeMap::from([keys("a.example"), keys("z.example")]);
        let mut found = Found { x509: Some(certificates()), jwks, ..Found::default() };
        assert!(wanted.files(&mut found).is_none(), "our own have not come");
        found.jwks.extend([keys("shop.local")]);
        let files = wanted.files(&mut found).unwrap();
        let written: Vec<_> =
            files.iter().map(|file| (file.name.as_str(), file.content.as_slice())).collect();
        let expected = [
            ("jwks.json", &b"keys of shop.local"[..]),
            ("federated/a.example.jwks.json", b"keys of a.example"),
            ("federated/z.example.jwks.json", b"keys of z.example"),
            ("svid.pem", b"chain"),
        ];
        assert_eq!(written, expected);
        assert_eq!(federated("spiffe://../x", "pem"), None);
    }

    #[test]
    fn what_cannot_be_is_told_before_anything_begins() {
        for good in [
            &[][..],
            &["--key-mode", "0640", "--jwt", "db.token=db", "--jwt", "a=https://x/?y=z"],
            &["--signal", "SIGHUP", "--pid-file", "/p"],
            &["--", "systemctl", "reload", "nginx"],
        ] {
            assert_eq!(problem(good), None, "{good:?}");
        }
        for (bad, of) in [
            (&["--jwt", "svid.key=db"][..], "--jwt"),
            (&["--jwt", "federated=db"], "--jwt"),
            (&["--jwt", "../x=db"], "--jwt"),
            (&["--jwt", "..data=db"], "--jwt"),
            (&["--jwt", "x="], "--jwt"),
            (&["--jwt", "x"], "--jwt"),
            (&["--jwt", "x=a", "--jwt", "x=b"], "twice"),
            (&["--key-mode", "777"], "--key-mode"),
            (&["--key-mode", "rw"], "--key-mode"),
            (&["--spiffe-id", "x"], "--spiffe-id"),
            (&["--signal", "BOO", "--pid-file", "/p"], "--signal"),
        ] {
            let problem = problem(bad);
            assert!(problem.as_deref().is_some_and(|text| text.contains(of)), "{bad:?}: {problem:?}");
        }
    }
}
