//! A control plane in a scratch directory, for unit tests.

pub(crate) mod softhsm;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hauberk_identity::{InstanceId, Name, NodeName, Serial, TrustDomain, Validity};
use hauberk_proto::mesh::v1::{EnrollmentSpec, Metadata, Resource, WorkloadEnrollment, resource};
use hauberk_tls::{
    CertificateRequest, IssuingAuthority, KeyPair, PeerIdentity, Svid, SvidTemplate, UpstreamChain,
};
use prost::Message;

use crate::app::ControlPlane;
use crate::audit::Actor;
use crate::authority::{self, KeyEncryptionKey, KeyStore, Token};
use crate::clock::Clock;
use crate::config::{Flags, Settings};
use crate::enrollment::{AgentInfo, TokenFor, TokenRequest, Uses};
use crate::issuance::{Holder, IssuedRecord};
use crate::registry::{
    Commit, Committed, Condition, Page, Revision, SledStore, Store, StoreError, Stored, Version, Watch,
    document, keys,
};
use crate::resources::testing::parent;
use crate::telemetry::LogControl;

/// The mesh and the node that exist.
pub(crate) const NODE: (&str, &str) = ("shop", "orders");

pub(crate) struct Scratch {
    _directory: tempfile::TempDir,
    pub(crate) control: Arc<ControlPlane>,
    pub(crate) clock: Clock,
}

/// A founded control plane with one node. Its clock begins now, since certificates are held against the real time in
/// handshakes, and stands still.
pub(crate) async fn scratch() -> Scratch {
    scratch_over(Arc::new).await
}

/// The same with something around its store.
pub(crate) async fn scratch_over<S: Store>(around: impl FnOnce(SledStore) -> Arc<S>) -> Scratch {
    scratch_with(around, None).await
}

/// The same with the keys of its authorities in a token, if there is one.
pub(crate) async fn scratch_with<S: Store>(
    around: impl FnOnce(SledStore) -> Arc<S>,
    token: Option<Arc<Token>>,
) -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Clock::system().now());
    let settings = settings(directory.path());
    let kek = Arc::new(KeyEncryptionKey::create(&settings.kek_file).unwrap());
    let keys = KeyStore::new(kek, token);
    let store = SledStore::create(&settings.registry_directory()).unwrap();
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let (founding, authority, _keys) =
        authority::found(&trust_domain, Vec::new(), &keys, clock.now()).await.unwrap();
    store.commit(founding).await.unwrap();
    let node = keys::resource("VirtualNode", NODE.0, NODE.1);
    store.commit(Commit::new().put(node, a_node("first")).raising_revision()).await.unwrap();
    let log = LogControl::detached();
    let (store, authority) = (around(store), Arc::new(authority));
    let control = ControlPlane::assemble(settings, clock.clone(), log, store, authority, keys).await.unwrap();
    Scratch { _directory: directory, control, clock }
}

/// A virtual node as it is stored.
pub(crate) fn a_node(uid: &str) -> Vec<u8> {
    let metadata = Some(Metadata { uid: uid.to_owned(), ..Metadata::default() });
    Resource { metadata, ..crate::resources::testing::node(NODE.1, []) }.encode_to_vec()
}

/// Settings of a control plane that listens on free ports.
pub(crate) fn settings(data_dir: &std::path::Path) -> Settings {
    let mut flags = Flags::new();
    flags.insert("data-dir", vec![data_dir.display().to_string()]);
    for listen in ["agent-listen", "admin-listen", "health-listen"] {
        flags.insert(listen, vec!["127.0.0.1:0".to_owned()]);
    }
    Settings::load(&flags, &BTreeMap::new(), None).unwrap()
}

pub(crate) fn actor() -> Actor {
    Actor { name: "spiffe://shop.local/admin/ada".to_owned(), source: "127.0.0.1:9".to_owned() }
}

/// A key and a request for its certificate.
pub(crate) fn request() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateRequest::create(&key).unwrap();
    (key, csr)
}

/// An agent of the node, with its first certificate.
pub(crate) async fn joined(scratch: &Scratch) -> PeerIdentity {
    let asked = TokenRequest {
        mesh: Name::parse(NODE.0).unwrap(),
        of: TokenFor::Node(NodeName::parse(NODE.1).unwrap()),
        ttl: None,
        uses: Uses::Limited(1),
    };
    let token = scratch.control.tokens.create(asked, &actor()).await.unwrap();
    let info = AgentInfo::default();
    let enrolled = scratch
        .control
        .enrollment
        .attest(token.secret.reveal(), &request().1, info, None, "10.0.0.7:4")
        .await;
    scratch.peer(&enrolled.unwrap().issued.svid)
}

impl Scratch {
    /// Puts a control plane in its place that goes on with what is stored, as after a restore from a backup.
    pub(crate) async fn restored(&mut self) {
        self.go_on(Some(self.clock.now().0)).await;
    }

    /// The same in an epoch that begins now, where it was then said that a backup was put back, if ever.
    pub(crate) async fn go_on(&mut self, restored_at: Option<u64>) {
        let ControlPlane { store, clock, .. } = &*self.control;
        let stored = store.get(keys::INSTALLATION).await.unwrap().unwrap();
        let mut installation: authority::Installation =
            document::from_stored(keys::INSTALLATION, &stored).unwrap();
        installation.epoch = clock.now().0;
        installation.restored_at = restored_at;
        let restored = document::to_bytes(keys::INSTALLATION, &installation).unwrap();
        store.commit(Commit::new().put(keys::INSTALLATION, restored)).await.unwrap();
        self.control = self.started_again().await;
    }

    /// A control plane that finds what is stored, as after a kill.
    pub(crate) async fn started_again(&self) -> Arc<ControlPlane> {
        self.started_again_by(self.clock.clone()).await
    }

    /// The same by another clock.
    pub(crate) async fn started_again_by(&self, clock: Clock) -> Arc<ControlPlane> {
        let ControlPlane { store, settings, .. } = &*self.control;
        let (store, settings) = (Arc::clone(store), settings.clone());
        let keys = KeyStore::new(Arc::new(KeyEncryptionKey::load(&settings.kek_file).unwrap()), None);
        let authority = Arc::new(authority::Authority::load(&*store, &keys).await.unwrap());
        let log = LogControl::detached();
        ControlPlane::assemble(settings, clock, log, store, authority, keys).await.unwrap()
    }

    /// Enrolls a workload of the node's agents.
    pub(crate) async fn enroll(&self, name: &str, workload: WorkloadEnrollment) {
        let (path, selectors) = (name.to_owned(), vec!["unix:uid:1000".to_owned()]);
        let spec = EnrollmentSpec {
            parent: Some(parent(NODE.1)),
            workload: Some(WorkloadEnrollment { path, selectors, ..workload }),
            attest: None,
        };
        let spec = Some(resource::Spec::Enrollment(spec));
        let bytes = Resource { spec, ..Resource::default() }.encode_to_vec();
        let key = keys::resource("Enrollment", NODE.0, name);
        self.control.store.commit(Commit::new().put(key, bytes)).await.unwrap();
    }

    /// Puts so many certificates of other instances on record, as issued now.
    pub(crate) async fn foreign_certificates(&self, count: u64) {
        let now = self.clock.now();
        for start in (0..count).step_by(1_000) {
            let mut commit = Commit::new();
            for number in start..count.min(start + 1_000) {
                let holder =
                    InstanceId::from_random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                let record = IssuedRecord {
                    spiffe_id: "spiffe://shop.local/mesh/shop/node/other".to_owned(),
                    holder: Holder::Instance(holder.to_string()),
                    issued_at: now.0,
                    not_before: now.0,
                    not_after: now.plus(Duration::from_secs(3_600)).0,
                    key_fingerprint: String::new(),
                    issuer: None,
                    dns_names: Vec::new(),
                };
                let serial = Serial::of_instance(holder, [3; 16]).to_string();
                let key = format!("{}{serial}", keys::ISSUED);
                let bytes = document::to_bytes(&key, &record).unwrap();
                commit = commit.put(key, bytes).put(keys::issued_order(now, &serial), "");
            }
            self.control.store.commit(commit).await.unwrap();
        }
    }

    /// Who has a key of another authority under our root, and has signed what a peer holds once more, for a key of its own.
    pub(crate) async fn copied(&self, of: &PeerIdentity) -> PeerIdentity {
        let (control, now) = (&self.control, self.clock.now());
        let (key, csr) = request();
        let signed = control.authorities.sign(&csr, &actor()).await.unwrap();
        let domain = control.authority.trust_domain();
        let chain = UpstreamChain::find(domain, &key.public_key(), &signed, None, &[], now).unwrap();
        let theirs = IssuingAuthority::adopt(&chain, key, Vec::new(), Vec::new(), now).unwrap();
        let svid = theirs.sign(&SvidTemplate {
            id: of.id().clone(),
            public_key: request().0.public_key(),
            serial: of.serial(),
            validity: Validity::new(of.not_before(), of.not_after()).unwrap(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        });
        self.peer(&svid.unwrap())
    }

    /// The peer that presents this certificate, verified as a listener would.
    pub(crate) fn peer(&self, svid: &Svid) -> PeerIdentity {
        let bundle = self.control.authority.bundle();
        hauberk_tls::verify_svid(svid.chain(), &bundle, self.clock.now(), hauberk_tls::Usage::Client).unwrap()
    }
}

/// A store that others use too.
pub(crate) struct Busy {
    store: SledStore,
    /// What they write, each just before one commit.
    pub(crate) first: Mutex<VecDeque<Commit>>,
    /// What they do at each commit.
    at_each: Mutex<Box<dyn FnMut() + Send>>,
    /// How many of the next commits are refused, after so many that are not.
    refused: Mutex<Option<(usize, usize)>>,
    /// Below which prefix nothing can be read.
    damaged: Mutex<Option<&'static str>>,
    /// How many records of certificates were read.
    certificates_read: AtomicUsize,
}

impl Busy {
    pub(crate) fn new(store: SledStore) -> Arc<Self> {
        let at_each: Mutex<Box<dyn FnMut() + Send>> = Mutex::new(Box::new(|| {}));
        let (first, refused, damaged) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { store, first, at_each, refused, damaged, certificates_read: AtomicUsize::new(0) })
    }

    /// How many records of certificates have been read since this was last asked.
    pub(crate) fn certificates_read(&self) -> usize {
        self.certificates_read.swap(0, Ordering::Relaxed)
    }

    /// Has this written just before the next commit.
    pub(crate) fn before_next(&self, commit: Commit) {
        self.first.lock().unwrap().push_back(commit);
    }

    /// Refuses this many commits, after the next so many, as a disk does that is full for a while.
    pub(crate) fn refuse(&self, after: usize, many: usize) {
        *self.refused.lock().unwrap() = Some((after, many));
    }

    fn is_refused(&self) -> bool {
        let mut refused = self.refused.lock().unwrap();
        let Some((after, many)) = *refused else { return false };
        *refused = match (after, many) {
            (0, 0 | 1) => None,
            (0, many) => Some((0, many - 1)),
            (after, many) => Some((after - 1, many)),
        };
        after == 0 && many > 0
    }

    /// Has this done at each commit from now on.
    pub(crate) fn at_each_commit(&self, act: impl FnMut() + Send + 'static) {
        *self.at_each.lock().unwrap() = Box::new(act);
    }

    /// Nothing can be read below this prefix from now on, and below any other again.
    pub(crate) fn damage(&self, prefix: Option<&'static str>) {
        *self.damaged.lock().unwrap() = prefix;
    }
}

impl Store for Busy {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, StoreError>> {
        (self.at_each.lock().unwrap())();
        let first = self.first.lock().unwrap().pop_front();
        if self.is_refused() {
            return std::future::ready(Err(StoreError::Full { available_mib: 1, needed_mib: 8 })).boxed();
        }
        async move {
            if let Some(first) = first {
                self.store.commit(first).await.unwrap();
            }
            self.store.commit(commit).await
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        self.certificates_read.fetch_add(usize::from(key.starts_with(keys::ISSUED)), Ordering::Relaxed);
        self.store.get(key)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        if *self.damaged.lock().unwrap() == Some(prefix) {
            let reason = "it was damaged".to_owned();
            return std::future::ready(Err(StoreError::Unreadable { reason })).boxed();
        }
        let listed = self.store.list(prefix, after, limit);
        async move {
            let page = listed.await?;
            let read = page.entries.iter().filter(|(key, _)| key.starts_with(keys::ISSUED)).count();
            self.certificates_read.fetch_add(read, Ordering::Relaxed);
            Ok(page)
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: Version) -> Watch {
        self.store.watch(prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.store.revision()
    }

    fn condition(&self) -> Condition {
        self.store.condition()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}
