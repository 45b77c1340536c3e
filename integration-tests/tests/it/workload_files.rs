//! `hauberk-agent api watch`: files for programs that only read files.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hauberk_integration_tests::{MeshBox, Process, binary, eventually, skip};
use hauberk_tls::{KeyPair, Svid, TrustBundle};
use rustix::process::Signal;

use crate::{
    partner::Partner,
    shop::PATIENCE,
    workload_api::{enrollment, shop, uid},
};

fn watch(mesh: &MeshBox, name: &str, socket: &Path, arguments: &[&str]) -> (Process, PathBuf) {
    let directory = mesh.folder().join(name);
    let mut command = Command::new(binary("hauberk-agent"));
    command.args([
        "api",
        "watch",
        "--socket",
        socket.to_str().unwrap(),
        "--write",
        directory.to_str().unwrap(),
    ]);
    command.args(arguments);
    (Process::start(name, mesh.folder(), command), directory)
}

/// Certificate and key of one generation, which must belong together.
fn pair(directory: &Path) -> Option<Svid> {
    let generation = fs::canonicalize(directory.join("..data")).ok()?;
    let read = |name: &str| fs::read_to_string(generation.join(name)).ok();
    let svid = Svid::from_pem(&read("svid.pem")?).unwrap();
    let key = KeyPair::from_pkcs8_pem(&read("svid.key")?).unwrap();
    assert_eq!(svid.key_fingerprint(), key.public_key().fingerprint());
    Some(svid)
}

#[test]
fn files_follow_each_change_and_programs_are_told() {
    let (mesh, mut agent, socket) = shop();
    let told = mesh.folder().join("told");
    // A program that counts signals in a file, and says when it is ready for them. Not hang-ups, which `nohup` has them
    // ignore.
    let (counted, pid_file) = (mesh.folder().join("counted"), mesh.folder().join("pid"));
    let mut program = Command::new("sh");
    let script = "trap 'echo usr1 >> \"$1\"' USR1; echo $$ > \"$2\"; while :; do sleep 0.05; done";
    program.args(["-c", script, "sh"]).args([&counted, &pid_file]);
    let _program = Process::start("program", mesh.folder(), program);
    eventually("the program is ready", PATIENCE, || {
        fs::read_to_string(&pid_file).ok().filter(|text| text.ends_with('\n'))
    });
    let arguments = ["--jwt", "db.token=db", "--signal", "USR1", "--pid-file", pid_file.to_str().unwrap()];
    let command = ["--", "sh", "-c", "echo changed >> \"$1\"", "sh", told.to_str().unwrap()];
    let (mut watcher, directory) = watch(&mesh, "files", &socket, &[&arguments[..], &command].concat());
    eventually("it says that it is nobody yet", PATIENCE, || {
        watcher.log().contains("no identity for this program").then_some(())
    });
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let first = eventually("the files are there", PATIENCE, || pair(&directory));
    assert_eq!(first.id().as_str(), "spiffe://box.test/workload/test/worker");
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    eventually("the program is told", PATIENCE, || (lines(&told) >= 1 && lines(&counted) >= 1).then_some(()));

    // Through the links that programs know.
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let domain = hauberk_identity::TrustDomain::parse("box.test").unwrap();
    assert_eq!(TrustBundle::from_pem(domain, &read("bundle.pem")).unwrap().roots().len(), 1);
    assert_eq!(read("svid-and-key.pem"), format!("{}{}", read("svid.pem"), read("svid.key")));
    assert!(read("jwks.json").contains("\"kid\""));
    assert_eq!(read("db.token").split('.').count(), 3);
    let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    for (name, expected) in
        [("svid.key", 0o600), ("svid-and-key.pem", 0o600), ("db.token", 0o600), ("svid.pem", 0o644)]
    {
        assert_eq!(mode(name), expected, "{name}");
    }
    let output = Command::new("openssl")
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            "bundle.pem",
            "-untrusted",
            "svid.pem",
        ])
        .arg("svid.pem")
        .current_dir(&directory)
        .output();
    match output {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => skip("openssl is not installed"),
    }

    // A new certificate, while the files are read all the time.
    mesh.hauberk(&["revoke", "serial", &first.serial().to_string()]).ok();
    let second = eventually("the files are new", PATIENCE, || {
        pair(&directory).filter(|svid| svid.serial() != first.serial())
    });
    eventually("its serial number is on the list", PATIENCE, || {
        directory.join("crl.pem").exists().then_some(()).filter(|()| read("crl.pem").contains("X509 CRL"))
    });
    let before = lines(&told);

    // The agent goes and comes back: the files stay.
    agent.process.kill();
    assert_eq!(pair(&directory).unwrap().serial(), second.serial());
    agent.restart(mesh.folder());
    eventually("it has found the agent again", PATIENCE, || {
        pair(&directory).filter(|svid| svid.serial() != second.serial())
    });
    eventually("and has told the program", PATIENCE, || (lines(&told) > before).then_some(()));

    watcher.signal(Signal::TERM);
    assert!(watcher.wait(PATIENCE).success());
    assert!(pair(&directory).is_some(), "the files outlive it");
}

#[test]
fn what_verifies_other_trust_domains_is_in_files_too() {
    let (mesh, _agent, socket) = shop();
    let partner = Partner::new(30);
    mesh.apply(&partner.resource());
    mesh.apply(&enrollment("worker", "web", &uid(), ", federatesWith: [partner.test]"));
    let (_watcher, directory) = watch(&mesh, "files", &socket, &[]);
    let roots = directory.join("federated/partner.test.pem");
    eventually("the partner's roots are there", PATIENCE, || fs::read_to_string(&roots).ok());
    assert_eq!(fs::read_to_string(&roots).unwrap(), partner.bundle().to_pem());
    assert!(!fs::read_to_string(directory.join("bundle.pem")).unwrap().contains(&partner.bundle().to_pem()));

    let fetched = mesh.folder().join("fetched");
    fs::create_dir(&fetched).unwrap();
    let fetch = || {
        let mut command = Command::new(binary("hauberk-agent"));
        command.args(["api", "fetch", "x509", "--socket", socket.to_str().unwrap(), "--write"]).arg(&fetched);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    eventually("the lists are there", PATIENCE, || {
        fetch();
        fetched.join("crl.pem").exists().then_some(())
    });
    let once = fetched.join("federated.partner.test.pem");
    assert_eq!(fs::read_to_string(&once).unwrap(), partner.bundle().to_pem());
    let fetch_bundle = || {
        let mut command = Command::new(binary("hauberk-agent"));
        command.args(["api", "fetch", "bundle", "--socket", socket.to_str().unwrap(), "--write"]);
        let output = command.arg(&fetched).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    fs::remove_file(&once).unwrap();
    fetch_bundle();
    assert_eq!(fs::read_to_string(&once).unwrap(), partner.bundle().to_pem());
    assert_eq!(fs::read_to_string(fetched.join("bundle.0.pem")).unwrap(), mesh.bundle_pem());
    assert!(!fetched.join("bundle.1.pem").exists());
    assert!(fs::read_to_string(fetched.join("crl.pem")).unwrap().contains("X509 CRL"));

    // It is nobody to this program any longer.
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    eventually("its roots are gone", PATIENCE, || {
        let is_gone =
            fs::symlink_metadata(directory.join("federated")).is_err() && pair(&directory).is_some();
        is_gone.then_some(())
    });
    fetch();
    assert!(!once.exists());
}

#[test]
fn tokens_are_verified_by_hand() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let (mut once, directory) = watch(&mesh, "once", &socket, &["--once", "--jwt", "db.token=db"]);
    assert!(once.wait(PATIENCE).success(), "{}", once.log());
    let validate = |socket: &Path, audience: &str, token: &[u8]| {
        let mut command = Command::new(binary("hauberk-agent"));
        command.args(["api", "validate", "jwt", "--audience", audience, "--socket"]).arg(socket);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(token).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let token = fs::read(directory.join("db.token")).unwrap();
    let (code, told, error) = validate(&socket, "db", &token);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let (id, claims) = told.split_once('\n').unwrap();
    assert_eq!(id, "spiffe://box.test/workload/test/worker");
    let claims: serde_json::Value = serde_json::from_str(claims).unwrap();
    assert_eq!((claims["sub"].as_str(), &claims["aud"]), (Some(id), &serde_json::json!(["db"])));
    assert!(claims["exp"].is_u64(), "{claims}");
    for (audience, token, expected, reason) in [
        ("other", &token[..], 1, "the token proves nothing: "),
        ("db", b"a.b.c", 1, "the token proves nothing: "),
        ("db", b"", 2, "there is no token in it"),
    ] {
        let (code, told, error) = validate(&socket, audience, token);
        assert_eq!((code, told.as_str()), (Some(expected), ""), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    // Nobody to ask is no answer.
    let (code, _, error) = validate(&mesh.folder().join("nobody.sock"), "db", &token);
    assert_eq!(code, Some(2), "{error}");
}

#[test]
fn a_directory_that_takes_nothing_for_a_while_is_written_again_later() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let (mut watcher, directory) = watch(&mesh, "files", &socket, &[]);
    let first = eventually("the files are there", PATIENCE, || pair(&directory));
    // As a disk that is full refuses it.
    let in_the_way = directory.join("..new-data");
    fs::create_dir(&in_the_way).unwrap();
    mesh.hauberk(&["revoke", "serial", &first.serial().to_string()]).ok();
    eventually("it says so", PATIENCE, || {
        watcher
            .log()
            .contains("cannot be written")
            .then_some(())
            .filter(|()| watcher.log().contains("tried again"))
    });
    assert_eq!(pair(&directory).unwrap().serial(), first.serial(), "the files stay as they are");
    fs::remove_dir(&in_the_way).unwrap();
    eventually("the files are new", PATIENCE, || {
        pair(&directory).filter(|svid| svid.serial() != first.serial())
    });
    watcher.signal(Signal::TERM);
    assert!(watcher.wait(PATIENCE).success());
}

#[test]
fn once_is_enough_for_a_container_that_prepares_another() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    mesh.apply(&enrollment("another", "web", &uid(), ""));
    let id = "spiffe://box.test/workload/test/worker";
    let (mut once, directory) =
        watch(&mesh, "once", &socket, &["--once", "--spiffe-id", id, "--key-mode", "0640"]);
    assert!(once.wait(PATIENCE).success(), "{}", once.log());
    assert_eq!(pair(&directory).unwrap().id().as_str(), id);
    let mode = fs::metadata(directory.join("svid.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);

    let (mut refused, _) = watch(&mesh, "refused", &socket, &["--jwt", "../db=db"]);
    assert!(!refused.wait(PATIENCE).success() && refused.log().contains("--jwt"), "{}", refused.log());
    fs::write(mesh.folder().join("file"), "").unwrap();
    let (mut refused, _) = watch(&mesh, "file", &socket, &[]);
    assert!(
        !refused.wait(PATIENCE).success() && refused.log().contains("cannot be written"),
        "{}",
        refused.log()
    );
}
