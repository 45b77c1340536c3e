//! Authorities whose keys are in a PKCS#11 token: SoftHSM. Skipped where softhsm2 is not installed.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, AttributeInfo, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use hauberk_integration_tests::{App, MeshBox, MeshOptions, eventually, get, skip};
use rustix::fs::{FlockOperation, fcntl_lock};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    authorities::authorities,
    clocks::faketime,
    data_directory::log_file,
    revocation::crl,
    shop::{self, PATIENCE, SHOP, WEB_MAY_ALL, get_until},
    upstream::Operator,
};

const PIN: &str = "hauberk-0000";

/// What tells the test that inspects a token which module has it.
const INSPECTED_MODULE: &str = "HAUBERK_TEST_INSPECTED_MODULE";

/// SoftHSM with a folder of tokens of its own.
struct SoftHsm {
    folder: TempDir,
    module: PathBuf,
}

impl SoftHsm {
    /// With one token, `mesh`; says so and gives nothing if SoftHSM is not installed.
    fn new() -> Option<Self> {
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
        let module = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].into_iter().map(PathBuf::from);
        let module = module.chain(folders).map(|folder| folder.join("softhsm/libsofthsm2.so"));
        let Some(module) = module.into_iter().find(|path| path.exists()) else {
            skip("softhsm2 is not installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("hauberk-softhsm-").tempdir().unwrap();
        let hsm = Self { folder, module };
        fs::create_dir(hsm.tokens()).unwrap();
        let tokens = hsm.tokens();
        fs::write(
            hsm.configuration(),
            format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display()),
        )
        .unwrap();
        fs::write(hsm.pin_file(), format!("{PIN}\n")).unwrap();
        fs::set_permissions(hsm.pin_file(), fs::Permissions::from_mode(0o600)).unwrap();
        hsm.add_token("mesh");
        Some(hsm)
    }

    fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    fn pin_file(&self) -> PathBuf {
        self.folder.path().join("pin")
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    fn add_token(&self, label: &str) {
        let output = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "so-0000-so"])
            .env("SOFTHSM2_CONF", self.configuration())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// What `init` and `run` are told of it.
    fn arguments(&self) -> Vec<String> {
        let (module, pin_file) = (self.module.display(), self.pin_file());
        [
            "--pkcs11-module",
            &module.to_string(),
            "--pkcs11-token",
            "mesh",
            "--pkcs11-pin-file",
            pin_file.to_str().unwrap(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn variables(&self) -> Vec<(String, String)> {
        vec![("SOFTHSM2_CONF".to_owned(), self.configuration().display().to_string())]
    }

    /// A shop whose authorities' keys were made in the token.
    fn shop(&self) -> MeshBox {
        let mesh = MeshBox::start_as(MeshOptions {
            init: self.arguments(),
            run: self.arguments(),
            variables: self.variables(),
            ..MeshOptions::default()
        });
        mesh.apply(SHOP);
        mesh
    }

    /// The private keys that the token holds, by their labels, with what it says of each: asked by another process, as
    /// somebody who has the PIN would.
    fn keys(&self) -> BTreeMap<String, String> {
        let inspect = || {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "pkcs11::inspects_the_token_that_it_is_told_of", "--nocapture"])
                .env(INSPECTED_MODULE, &self.module)
                .envs(self.variables())
                .output()
                .unwrap()
        };
        // A key may be destroyed while it is looked at.
        let mut output = inspect();
        for _ in 0..9 {
            if output.status.success() {
                break;
            }
            output = inspect();
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let keys = text.lines().filter_map(|line| line.strip_prefix("key: ")?.split_once(" | "));
        keys.map(|(label, told)| (label.to_owned(), told.to_owned())).collect()
    }
}

fn logged_in(module: &str) -> Session {
    let context = Pkcs11::new(module).unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = context.get_slots_with_token().unwrap();
    let is_ours = |slot: &&Slot| context.get_token_info(**slot).unwrap().label() == "mesh";
    let slot = *slots.iter().find(is_ours).expect("the token is there");
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(PIN))).unwrap();
    session
}

/// Not a test by itself: see [`SoftHsm::keys`]. The module reads its configuration from the environment.
#[test]
fn inspects_the_token_that_it_is_told_of() {
    let Ok(module) = env::var(INSPECTED_MODULE) else { return };
    let session = logged_in(&module);
    let wrapping = session
        .generate_key(
            &Mechanism::AesKeyGen,
            &[Attribute::ValueLen(32.into()), Attribute::Wrap(true), Attribute::Token(false)],
        )
        .unwrap();
    for key in session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap() {
        println!("key: {} | {}", label(&session, key), what_it_gives(&session, key, wrapping));
    }
}

fn label(session: &Session, key: ObjectHandle) -> String {
    let told = session.get_attributes(key, &[AttributeType::Label]).unwrap();
    let [Attribute::Label(label)] = told.as_slice() else { panic!("{told:?}") };
    String::from_utf8(label.clone()).unwrap()
}

fn what_it_gives(session: &Session, key: ObjectHandle, wrapping: ObjectHandle) -> String {
    let info = session.get_attribute_info(key, &[AttributeType::Value]).unwrap();
    let value = match info.as_slice() {
        [AttributeInfo::Sensitive] => "secret",
        [AttributeInfo::Available(_)] => "readable",
        _ => "absent",
    };
    let wrapped = match session.wrap_key(&Mechanism::AesKeyWrap, wrapping, key) {
        Ok(_) => "given out".to_owned(),
        Err(cryptoki::error::Error::Pkcs11(code, _)) => format!("{code:?}"),
        Err(error) => error.to_string(),
    };
    let copied = session.copy_object(key, &[Attribute::Token(false), Attribute::Extractable(true)]);
    let asked =
        [AttributeType::Sign, AttributeType::SignRecover, AttributeType::Decrypt, AttributeType::Unwrap];
    let uses: Vec<_> = session
        .get_attributes(key, &[&asked[..], &[AttributeType::Derive]].concat())
        .unwrap()
        .into_iter()
        .filter(|attribute| !format!("{attribute:?}").contains("false"))
        .map(|attribute| format!("{attribute:?}"))
        .collect();
    let copied = if copied.is_ok() { "copied" } else { "not copied" };
    format!("{value}, {wrapped}, {copied}, {}", uses.join(" "))
}

/// What no key of an authority does differently.
const KEPT: &str = "secret, KeyUnextractable, not copied, Sign(true)";

/// Where the keys of the active authorities are: of the root, and of the issuing one.
fn places(mesh: &MeshBox) -> [String; 2] {
    let authorities = authorities(mesh);
    ["ROOT", "ISSUING"].map(|kind| {
        let is_it = |one: &&Value| {
            one["state"] == "active" && one["kind"].as_str().unwrap().to_uppercase().ends_with(kind)
        };
        authorities.iter().find(is_it).unwrap_or_else(|| panic!("{authorities:?}"))["key"]
            .as_str()
            .unwrap()
            .to_owned()
    })
}

/// What the registry holds of authorities, as it stands on the disk.
fn authority_records(mesh: &MeshBox) -> Vec<String> {
    let store = sled::open(log_file(mesh).parent().unwrap()).unwrap();
    let mut records = Vec::new();
    for tree in store.tree_names() {
        for entry in store.open_tree(tree).unwrap().iter() {
            let (key, value) = entry.unwrap();
            let (key, value) = (String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            if key.contains("authority/root/") || key.contains("authority/issuing/") {
                records.push(value.into_owned());
            }
        }
    }
    records
}

#[test]
fn a_mesh_whose_authorities_keys_are_in_a_token_trades_restarts_and_rotates() {
    let Some(hsm) = SoftHsm::new() else { return };
    let mut mesh = hsm.shop();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    assert_eq!(places(&mesh), ["token:mesh", "token:mesh"]);
    let table = mesh.hauberk(&["authority", "list"]).ok().stdout;
    assert!(table.contains("token:mesh"), "{table}");

    let keys = hsm.keys();
    assert_eq!(keys.len(), 2, "{keys:?}");
    for one in authorities(&mesh) {
        let kind = one["kind"].as_str().unwrap().to_lowercase();
        let kind = kind.rsplit('_').next().unwrap();
        let label = format!("hauberk box.test {kind} {}", one["serial"].as_str().unwrap());
        assert_eq!(keys.get(&label).map(String::as_str), Some(KEPT), "{label}: {keys:?}");
    }

    mesh.restart_control_plane();
    let intruder = shop::caller(&mesh, "intruder");
    assert!(!crl(&mesh).is_empty());
    for (kind, wanted) in [("issuing", 3), ("root", 5)] {
        mesh.hauberk(&["authority", "rotate", kind, "--wait=60s"]).ok();
        get_until(&web, "orders", "/", 200);
        let keys = hsm.keys();
        assert_eq!(keys.len(), wanted, "{keys:?}");
        assert!(keys.values().all(|told| told == KEPT), "{keys:?}");
    }
    drop(intruder);
    assert!(mesh.control_plane().stop(PATIENCE).success(), "{}", mesh.control_plane().log());
    mesh.kill_control_plane();
    let records = authority_records(&mesh);
    assert_eq!(records.len(), 5);
    for record in records {
        assert!(record.contains(r#""sealed_key":"""#) && record.contains(r#""token_key":{"#), "{record}");
    }
}

#[test]
fn an_installation_moves_into_a_token_by_replacing_its_root() {
    let Some(hsm) = SoftHsm::new() else { return };
    let (mut mesh, _app, _orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    assert_eq!(places(&mesh), ["sealed", "sealed"]);

    *mesh.options() =
        MeshOptions { run: hsm.arguments(), variables: hsm.variables(), ..MeshOptions::default() };
    mesh.restart_control_plane();
    assert_eq!(places(&mesh), ["sealed", "sealed"]);
    assert!(hsm.keys().is_empty());
    // An issuing authority in the token, under a root that is not.
    mesh.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    assert_eq!(places(&mesh), ["sealed", "token:mesh"]);
    get_until(&web, "orders", "/", 200);
    mesh.hauberk(&["authority", "rotate", "root", "--wait=60s"]).ok();
    assert_eq!(places(&mesh), ["token:mesh", "token:mesh"]);
    get_until(&web, "orders", "/", 200);
    mesh.restart_control_plane();
    get_until(&web, "orders", "/", 200);

    mesh.kill_control_plane();
    let refused = mesh.refused_start(&[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = "is in the PKCS#11 token \"mesh\" (serial number ";
    let fix = "): set --pkcs11-module, --pkcs11-token and --pkcs11-pin-file";
    assert!(
        refused.stderr.contains("error: the key of issuing authority ")
            && refused.stderr.contains(told)
            && refused.stderr.contains(fix),
        "{}",
        refused.stderr
    );
}

/// A root of the operator's own, made with OpenSSL: its key is nowhere here, and that of the issuing authority is in
/// the token.
#[test]
fn a_request_whose_key_is_in_the_token_is_signed_elsewhere_and_agents_enrol_under_it() {
    let Some(hsm) = SoftHsm::new() else { return };
    let mut mesh = hsm.shop();
    let Some(operator) = Operator::open(mesh.folder()) else { return };
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let requests = || {
        let keys = hsm.keys();
        assert!(keys.values().all(|told| told == KEPT), "{keys:?}");
        keys.into_keys().filter(|label| label.contains(" request ")).collect::<Vec<_>>()
    };
    operator.request(&mesh);
    let first = requests();
    operator.request(&mesh);
    assert!(first.len() == 1 && requests() == first, "the same until it is installed");
    let out = operator.path("request.pem");
    mesh.hauberk(&["authority", "csr", "--new", "--out", out.to_str().unwrap()]).ok();
    let second = requests();
    assert!(second.len() == 1 && second != first, "{first:?}: nobody signs with it any longer; {second:?}");

    // Whoever has the request signed may take days.
    mesh.restart_control_plane();
    operator.sign("root", "-days 90 -copy_extensions copy", "issuing.pem");
    let root = operator.install(&mesh, &["issuing.pem", "root.pem"]);
    mesh.hauberk(&["authority", "activate", &root, "--wait=60s"]).ok();
    assert_eq!(places(&mesh), ["elsewhere", "token:mesh"]);
    assert_eq!(requests(), second, "it has become that of the authority");
    operator.verifies_what_is_issued(&mesh);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    mesh.restart_control_plane();
    get_until(&web, "orders", "/", 200);

    // The next one, whose key is away when it is installed: nothing is refused, and it is told what to wait for.
    operator.request(&mesh);
    operator.sign("root", "-days 60 -copy_extensions copy", "next.pem");
    let (here, away) = (hsm.tokens(), hsm.folder.path().join("away"));
    move_to(&here, &away);
    let next = operator.path("next.pem");
    let refused = mesh.hauberk(&["authority", "install", next.to_str().unwrap()]);
    assert!(refused.code != 0 && refused.stderr.contains("the token \"mesh\" fails: C_"), "{refused:?}");
    move_to(&away, &here);
    let health = mesh.health_address().parse().unwrap();
    eventually("it is ready again", PATIENCE, || {
        (get(health, "health", "/readyz").unwrap().status == 200).then_some(())
    });
    let serial = operator.install(&mesh, &["next.pem"]);
    mesh.hauberk(&["authority", "activate", &serial, "--wait=60s"]).ok();
    get_until(&web, "orders", "/", 200);

    // Back to a root of its own, in the token.
    let said = mesh.hauberk(&["authority", "prepare", "root", "--own", "--wait=60s"]).ok().stdout;
    let own = said.strip_prefix("authority/").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    mesh.hauberk(&["authority", "activate", &own, "--wait=60s"]).ok();
    assert_eq!(places(&mesh), ["token:mesh", "token:mesh"]);
    get_until(&web, "orders", "/", 200);

    // And signs for another Hauberk, whose key it never sees.
    let child = MeshBox::start();
    let request = child.hauberk(&["authority", "csr"]).ok().stdout;
    let signed = mesh.hauberk_with_input(&["authority", "sign"], &request).ok().stdout;
    child.hauberk_with_input(&["authority", "install", "-"], &signed).ok();
    let delegated = authorities(&mesh).into_iter().find(|one| one["state"] == "delegated").unwrap();
    assert_eq!(delegated["key"], "elsewhere");
}

/// What `init` says where the token is not what it was told, and `run` too.
#[test]
fn what_is_wrong_with_a_token_is_told_before_anything_is_begun() {
    let Some(hsm) = SoftHsm::new() else { return };
    let mut mesh = hsm.shop();
    mesh.kill_control_plane();
    let module = hsm.module.display().to_string();
    let files = hsm.folder.path();
    let pin = |name: &str, text: &str, mode: u32| {
        let path = files.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let right = hsm.pin_file().display().to_string();
    let (wrong, open) = (pin("wrong", "0000", 0o600), pin("open", PIN, 0o644));
    let (empty, absent) = (pin("empty", "\n", 0o600), files.join("absent").display().to_string());
    let missing_module = files.join("none.so").display().to_string();
    hsm.add_token("twice");
    hsm.add_token("twice");
    let told = |module: &str, label: &str, pin_file: &str| {
        let arguments = ["--pkcs11-module", module, "--pkcs11-token", label, "--pkcs11-pin-file", pin_file];
        let data = mesh.folder().join("other");
        let init = ["init", "--trust-domain", "other.test", "--data-dir", data.to_str().unwrap()];
        let founded = mesh.control_plane_command(&[&init[..], &arguments].concat());
        assert_eq!(founded.code, 1, "{founded:?}");
        assert!(fs::read_dir(&data).unwrap().next().is_none(), "nothing was begun");
        let refused = mesh.refused_start(&arguments);
        assert_eq!(refused.code, 1, "{refused:?}");
        let error = refused.stderr.lines().last().unwrap().strip_prefix("error: ").unwrap().to_owned();
        assert_eq!(founded.stderr.lines().last().unwrap().strip_prefix("error: "), Some(error.as_str()));
        error
    };
    assert_eq!(
        told(&missing_module, "mesh", &right),
        format!(
            "the PKCS#11 module {missing_module} cannot be used: No such file or directory (os error 2): see \
             --pkcs11-module"
        )
    );
    let error = told(&right, "mesh", &right);
    let begins = format!("the PKCS#11 module {right} cannot be used: {right}: ");
    assert!(error.starts_with(&begins) && error.ends_with(": see --pkcs11-module"), "{error}");
    let error = told(&module, "mash", &right);
    let begins = format!("the PKCS#11 module {module} has no token that is labelled \"mash\", but \"");
    assert!(error.starts_with(&begins) && error.ends_with("): see --pkcs11-token"), "{error}");
    assert!(error.contains("\"mesh\" (serial number "), "{error}");
    let error = told(&module, "twice", &right);
    let begins =
        format!("the PKCS#11 module {module} has several tokens that are labelled \"twice\" (serial number ");
    assert!(error.starts_with(&begins) && error.ends_with("): give the others another label"), "{error}");
    assert_eq!(
        told(&module, "mesh", &wrong),
        format!(
            "the token \"mesh\" refuses the PIN in {wrong} (C_Login says CKR_PIN_INCORRECT): put the right one there. \
             This one is not tried again, since tokens lock after a few wrong ones"
        )
    );
    assert_eq!(
        told(&module, "mesh", &open),
        format!(
            "the PIN file {open} has mode 0644: others may read or change it. Run `chmod 600` on it, and ask yourself \
             who has read it"
        )
    );
    assert_eq!(told(&module, "mesh", &empty), format!("the PIN file {empty} does not hold one line of text"));
    assert_eq!(
        told(&module, "mesh", &absent),
        format!("the PIN file {absent} cannot be read: No such file or directory (os error 2)")
    );
    let refused = mesh.refused_start(&["--pkcs11-module", &module, "--pkcs11-token", "mesh"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("--pkcs11-module: is of no use without pkcs11-pin-file"), "{refused:?}");
    mesh.restart_control_plane();
}

/// A token that has been initialized anew has none of the keys.
#[test]
fn a_token_without_the_keys_is_refused_by_name() {
    let Some(hsm) = SoftHsm::new() else { return };
    let mut mesh = hsm.shop();
    mesh.kill_control_plane();
    fs::remove_dir_all(hsm.tokens()).unwrap();
    fs::create_dir(hsm.tokens()).unwrap();
    hsm.add_token("mesh");
    let arguments = hsm.arguments();
    let refused = mesh.refused_start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused.code, 1, "{refused:?}");
    let error = refused.stderr.lines().last().unwrap();
    assert!(
        error.starts_with("error: the token \"mesh\" (serial number ")
            && error.contains(") has no private key with the id ")
            && error.ends_with(": was it initialized anew, or the key deleted? Restore the token's backup"),
        "{error}"
    );
    assert!(refused.stderr.contains("root_key_missing"), "{}", refused.stderr);
}

fn move_to(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

#[test]
fn a_token_that_was_away_is_named_and_found_again() {
    let Some(hsm) = SoftHsm::new() else { return };
    let mut mesh = hsm.shop();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);

    let health = mesh.health_address().parse().unwrap();
    let ready = || {
        let answer = get(health, "health", "/readyz").unwrap();
        (answer.status, answer.body)
    };
    let data = mesh.data_dir();
    let data = data.to_str().unwrap().to_owned();
    let issue = |mesh: &MeshBox| mesh.control_plane_command(&["admin", "issue", "eve", "--data-dir", &data]);
    let certificates = |mesh: &MeshBox| {
        let listed = mesh.hauberk_json(&["get", "certificates", "-o", "json"]);
        listed["items"].as_array().unwrap().len()
    };
    assert_eq!(ready().0, 200);

    let (here, away) = (hsm.tokens(), hsm.folder.path().join("away"));
    move_to(&here, &away);
    let refused = issue(&mesh);
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = "the control plane's PKCS#11 token signs nothing just now: try again; its log says why";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    let reason = eventually("it is unready", PATIENCE, || {
        let (status, text) = ready();
        (status == 503).then_some(text)
    });
    let (begins, ends) =
        ("no certificates can be signed: the token \"mesh\" fails: C_", " says CKR_GENERAL_ERROR.");
    assert!(reason.starts_with(begins) && reason.contains(ends), "{reason}");
    let checked = mesh.hauberk(&["check"]);
    assert!(checked.code != 0 && checked.stdout.contains("no certificates can be signed: "), "{checked:?}");
    // From now on nothing is recorded of what cannot be signed; and who has a certificate trades on.
    let recorded = certificates(&mesh);
    for _ in 0..3 {
        assert!(issue(&mesh).stderr.contains(told));
    }
    assert_eq!(certificates(&mesh), recorded);
    get_until(&web, "orders", "/", 200);
    let rotated = mesh.hauberk(&["authority", "rotate", "issuing"]);
    assert_eq!(rotated.code, 1, "{rotated:?}");
    assert!(rotated.stderr.contains("the token \"mesh\" fails: C_"), "{rotated:?}");

    // Back, but the PIN has changed meanwhile: it is not tried again and again.
    fs::write(hsm.pin_file(), "1111").unwrap();
    move_to(&away, &here);
    let refuses = "the token \"mesh\" refuses the PIN in ";
    eventually("the PIN is named", PATIENCE, || ready().1.contains(refuses).then_some(()));
    eventually("it is not tried again", PATIENCE, || {
        ready().1.contains("(it has refused it before)").then_some(())
    });
    fs::write(hsm.pin_file(), PIN).unwrap();
    eventually("it is ready again", PATIENCE, || (ready().0 == 200).then_some(()));
    issue(&mesh).ok();
    mesh.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    get_until(&web, "orders", "/", 200);
    let log = mesh.control_plane().log();
    assert!(log.contains("token_failed") && log.contains("token_works"), "{log}");
    assert!(!log.contains(PIN) && !log.contains("1111"), "a PIN is in the log");
}

/// Locks that SoftHSM waits for, with each call that looks at a key.
fn hold(folder: &Path, held: &mut Vec<fs::File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            hold(&path, held);
        } else {
            let file = fs::File::options().read(true).write(true).open(&path).unwrap();
            fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
            held.push(file);
        }
    }
}

#[test]
fn a_token_that_hangs_holds_up_nothing_but_signatures() {
    let Some(hsm) = SoftHsm::new() else { return };
    let mut mesh = hsm.shop();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let health = mesh.health_address().parse().unwrap();
    let data = mesh.data_dir();
    let issue = |mesh: &MeshBox, name: &str| {
        mesh.control_plane_command(&["admin", "issue", name, "--data-dir", data.to_str().unwrap()])
    };

    let mut held = Vec::new();
    hold(&hsm.tokens(), &mut held);
    std::thread::scope(|scope| {
        // More than there are sessions.
        let mesh = &mesh;
        let names = (0..12).map(|number| format!("eve-{number}"));
        let issued: Vec<_> = names.map(|name| scope.spawn(move || issue(mesh, &name))).collect();
        // Each of these would be late if a thread of the runtime waited for the token.
        for name in ["one", "two", "three"] {
            mesh.apply(&format!("kind: VirtualNode\nmesh: shop\nname: {name}\nspec: {{}}\n"));
            mesh.wait_enforced();
            get_until(&web, "orders", "/", 200);
        }
        // None is signed as long as the token hangs, which it does until the locks are dropped.
        for issued in issued {
            let issued = issued.join().unwrap();
            assert!(issued.code == 1 && issued.stderr.contains("signs nothing just now"), "{issued:?}");
        }
    });
    let late = "no certificates can be signed: the token \"mesh\" has not answered within 10s: ";
    eventually("it is named", PATIENCE, || {
        let answer = get(health, "health", "/readyz").unwrap();
        (answer.status == 503 && answer.body.starts_with(late)).then_some(())
    });
    drop(held);
    eventually("it is ready again", PATIENCE, || {
        (get(health, "health", "/readyz").unwrap().status == 200).then_some(())
    });
    issue(&mesh, "eve").ok();

    // And it does not keep the control plane from ending.
    let mut held = Vec::new();
    hold(&hsm.tokens(), &mut held);
    assert_eq!(issue(&mesh, "eve").code, 1);
    mesh.control_plane().stop(PATIENCE);
}

/// By age: with clocks that go on for three months.
#[test]
fn authorities_follow_in_the_token_and_no_key_is_destroyed_by_the_clock_of_a_start() {
    let (Some(hsm), Some(faketime)) = (SoftHsm::new(), faketime()) else { return };
    let mut mesh = hsm.shop();
    mesh.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    let first: Vec<_> = hsm.keys().into_keys().collect();
    assert_eq!(first.len(), 3);
    let issuing_of = |keys: &BTreeMap<String, String>| {
        keys.keys().filter(|label| label.contains(" issuing ")).cloned().collect::<Vec<_>>()
    };
    let later = |mesh: &mut MeshBox, offset: &str| {
        let variables = [("LD_PRELOAD", faketime.to_str().unwrap()), ("FAKETIME", offset)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let dont = ("DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned());
        mesh.options().variables = hsm.variables().into_iter().chain(variables).chain([dont]).collect();
        mesh.restart_control_plane();
    };
    later(&mut mesh, "+84d");
    let third = eventually("the next one is made", PATIENCE, || {
        let keys = hsm.keys();
        issuing_of(&keys).into_iter().find(|label| !first.contains(label))
    });
    // Those before have expired.
    later(&mut mesh, "+92d");
    eventually("the next one is active", PATIENCE, || {
        (mesh.control_plane().log().matches("\"authority.activate\"").count() >= 2).then_some(())
    });
    // What a clock says at a start is no reason to destroy anything.
    let keys: Vec<_> = hsm.keys().into_keys().collect();
    assert!(first.iter().chain([&third]).all(|label| keys.contains(label)), "{first:?} {third}: {keys:?}");
    assert!(!mesh.control_plane().log().contains("authority.forget"));
}
