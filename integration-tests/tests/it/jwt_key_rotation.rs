//! The keys that sign tokens follow one another, and nobody who verifies notices: a day and a night by the clocks of
//! control plane and agent, which are set forward between their starts. Skipped where faketime is not installed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, eventually_async};
use hauberk_tls::jwt::{JwtBundle, verify_jwt_svid};
use serde_json::Value;
use tonic::Code;

use crate::{
    clocks::faketime,
    jwt_svids::{ISSUER, curl, keys, now, self_signed},
    shop::{PATIENCE, SMALL_SHOP},
    workload_api::{enrollment, uid},
    workload_tokens::{tokens, validate},
};

const MINUTES: u64 = 60;
const HOURS: u64 = 60 * MINUTES;

struct Installation {
    mesh: MeshBox,
    web: Agent,
    socket: PathBuf,
    /// What the discovery listener is known by.
    certificate: PathBuf,
    faketime: PathBuf,
    /// How many seconds have passed since it was made.
    passed: u64,
}

impl Installation {
    /// `None`: its clocks cannot be set.
    fn start(folder: &Path) -> Option<Self> {
        let faketime = faketime()?;
        let (certificate, key) = self_signed(folder, "oidc");
        let [shown, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
        let oidc = ["--oidc-listen", "127.0.0.1:0", "--oidc-issuer", ISSUER];
        let files = ["--oidc-certificate", shown, "--oidc-key", key, "--svid-ttl", "24h"];
        let mesh = MeshBox::start_with(&[&oidc[..], &files].concat());
        mesh.apply(SMALL_SHOP);
        mesh.apply(&enrollment("worker", "web", &uid(), ", jwtTtl: {value: 3600, unit: s}"));
        let socket = mesh.folder().join("run").join("api.sock");
        let options =
            AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
        let web = mesh.agent("web", options);
        Some(Self { mesh, web, socket, certificate, faketime, passed: 0 })
    }

    /// Lets time pass until so many seconds after it was made.
    fn goes_on_to(&mut self, passed: u64) {
        self.passed = passed;
        let clock = Some((format!("+{passed}s"), self.faketime.clone()));
        self.web.process.kill();
        self.web.set_clock(clock.clone());
        self.mesh.set_clock(clock);
        self.mesh.restart_control_plane();
        self.web.restart(self.mesh.folder());
    }

    /// A token that is minted now, and the key that it names.
    async fn token(&self) -> (String, String) {
        let token = eventually_async("a token is minted", PATIENCE, async || {
            tokens(&self.socket, &["db"], "").await.ok()?.pop().map(|token| token.svid)
        })
        .await;
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        (token, header["kid"].as_str().unwrap().to_owned())
    }

    /// The keys as whoever knows of OpenID Connect alone fetches them.
    fn published(&self) -> Option<JwtBundle> {
        Some(keys(&curl(&self.mesh, &self.certificate, "/mesh/keys", &[])?.1))
    }

    fn accepts(&self, keys: &JwtBundle, token: &str) -> bool {
        let now = now().plus(Duration::from_secs(self.passed));
        verify_jwt_svid(token, "db", keys, now).is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_follows_another_and_every_token_is_good_until_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut day) = Installation::start(folder.path()) else { return };
    let (_, first) = day.token().await;
    let Some(published) = day.published() else { return };
    assert_eq!(published.keys().count(), 1);

    // The next one is published hours before it signs.
    day.goes_on_to(14 * HOURS);
    let kept = day.published().unwrap();
    assert_eq!(kept.keys().count(), 2);
    assert_eq!(day.token().await.1, first, "and the first one signs");

    // The last token of the first key.
    day.goes_on_to(19 * HOURS + 50 * MINUTES);
    let (last, key) = day.token().await;
    assert_eq!(key, first);

    // The first of the second, which verifies at once wherever the keys were looked at since, as does what is older.
    day.goes_on_to(20 * HOURS + 5 * MINUTES);
    let (new, second) = day.token().await;
    assert_ne!(second, first);
    for token in [&last, &new] {
        validate(&day.socket, "db", token).await.unwrap();
        assert!(day.accepts(&kept, token), "by keys that were fetched before");
        assert!(day.accepts(&day.published().unwrap(), token));
    }

    // The first key has ended, and its tokens with it. It is published still: what a clock says at a start is no reason
    // to remove one.
    day.goes_on_to(24 * HOURS + 5 * MINUTES);
    let (_, key) = day.token().await;
    assert_eq!(key, second);
    let published = day.published().unwrap();
    assert!(published.key(&first).is_some() && published.key(&second).is_some());
    assert_eq!(validate(&day.socket, "db", &last).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(!day.accepts(&published, &last));
    // Whoever still has the key believes nothing by it either: it outlives its tokens.
    assert!(!day.accepts(&kept, &last));
}
