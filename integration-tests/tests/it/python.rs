//! The admin API as a stock gRPC client sees it: Python's grpcio, with nothing generated.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use hauberk_integration_tests::{MeshBox, skip};

/// Python with grpcio, grpcio-reflection and grpcio-health-checking.
fn python() -> Option<PathBuf> {
    let found = std::env::var_os("HAUBERK_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        skip(
            "HAUBERK_TEST_PYTHON names no Python that has grpcio, grpcio-reflection and grpcio-health-checking",
        );
    }
    found
}

fn run(python: &Path, arguments: &[&str], folder: &Path) -> (bool, String) {
    let Output { status, stdout, stderr } =
        Command::new(python).args(arguments).current_dir(folder).output().unwrap();
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn exported() -> (MeshBox, PathBuf) {
    let mesh = MeshBox::start();
    mesh.apply("kind: Mesh\nname: shop\n---\nkind: VirtualNode\nmesh: shop\nname: orders\nspec: {}\n");
    let folder = mesh.folder().join("credential");
    mesh.hauberk(&["context", "export", "--dir", folder.to_str().unwrap()]).ok();
    (mesh, folder)
}

#[test]
fn a_credential_is_exported_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_mesh, folder) = exported();
    for (name, begins) in [("ca.pem", "CERTIFICATE"), ("cert.pem", "CERTIFICATE"), ("key.pem", "PRIVATE KEY")]
    {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("-----BEGIN {begins}-----")), "{name}: {text:.40}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn the_example_lists_virtual_nodes() {
    let Some(python) = python() else { return };
    let (mesh, folder) = exported();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/list_nodes.py");
    let target = mesh.admin_address().replace("127.0.0.1", "localhost");
    let (ok, said) =
        run(&python, &[script.to_str().unwrap(), &target, folder.to_str().unwrap()], mesh.folder());
    assert!(ok, "{said}");
    assert!(said.contains("hauberk.admin.v1.Resources") && said.contains("\"orders\""), "{said}");
}

#[test]
fn a_stock_python_client_finds_the_control_plane_while_one_root_follows_another() {
    let Some(python) = python() else { return };
    let (mesh, former) = exported();
    let target = mesh.admin_address().replace("127.0.0.1", "localhost");
    mesh.hauberk(&["authority", "rotate", "root", "--wait=60s"]).ok();
    // A context learns of a new root with the next command.
    mesh.hauberk(&["get", "virtualnodes", "-m", "shop"]).ok();
    let all = mesh.folder().join("exported-later");
    mesh.hauberk(&["context", "export", "--dir", all.to_str().unwrap()]).ok();
    for (folder, roots) in [(former, 1), (all, 2)] {
        let known = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
        assert_eq!(known.matches("BEGIN CERTIFICATE").count(), roots);
        let (ok, said) = run(&python, &["-c", HEALTH, &target, folder.to_str().unwrap()], mesh.folder());
        assert!(ok, "{roots} roots: {said}");
    }
}

const HEALTH: &str = r#"
import pathlib, sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
read = lambda name: (pathlib.Path(sys.argv[2]) / name).read_bytes()
credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("key.pem"), read("cert.pem"))
with grpc.secure_channel(sys.argv[1], credentials) as channel:
    health = health_pb2_grpc.HealthStub(channel)
    for service in sys.argv[3:] or [""]:
        print(service, health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)
"#;

#[test]
fn health_is_served() {
    let Some(python) = python() else { return };
    let (mesh, folder) = exported();
    let folder = folder.to_str().unwrap();
    let arguments = ["-c", HEALTH, mesh.admin_address(), folder, "", "hauberk.admin.v1.Resources"];
    let (ok, said) = run(&python, &arguments, mesh.folder());
    assert!(ok, "{said}");
    assert_eq!(said.trim(), "1\nhauberk.admin.v1.Resources 1", "SERVING is 1");
}

const REFUSED: &str = r#"
import pathlib, sys, grpc
ca = (pathlib.Path(sys.argv[2]) / "ca.pem").read_bytes()
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(ca)) as channel:
    call = channel.unary_unary(
        "/hauberk.admin.v1.Resources/List",
        request_serializer=lambda message: message, response_deserializer=lambda message: message)
    try:
        call(b"", timeout=10)
        print("it was answered")
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"#;

#[test]
fn without_a_certificate_nothing_is_listed() {
    let Some(python) = python() else { return };
    let (mesh, folder) = exported();
    let (ok, said) =
        run(&python, &["-c", REFUSED, mesh.admin_address(), folder.to_str().unwrap()], mesh.folder());
    assert!(ok && said.starts_with("UNAUTHENTICATED"), "{said}");
}
