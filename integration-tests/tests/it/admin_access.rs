//! Who may call what: every RPC of the admin API, by people without a certificate, by workloads, by admins of every
//! role, and by clients that speak gRPC badly.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use hauberk_integration_tests::{MeshBox, dial};
use hauberk_proto::{
    FILE_DESCRIPTOR_SET,
    admin::v1::{
        ApplyRequest, AuditOutcome, CreateAdminRequest, DeleteAdminRequest, ListAdminsRequest,
        ListAuditRequest, ListRequest, LoginRequest, RefreshBundleRequest, RenewCredentialRequest, Role,
        admins_client::AdminsClient, audit_client::AuditClient, federation_client::FederationClient,
        resources_client::ResourcesClient,
    },
    mesh::v1::{
        PolicySpec, Resource, VirtualNodeProvider, VirtualNodeSpec, VirtualServiceProvider,
        VirtualServiceSpec, resource::Spec, virtual_service_provider::Provider,
    },
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid, install_provider};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, body::Body, transport::Channel};
use tower::{Service, ServiceExt};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::certificates::greedy_request;

const NODE: &str = "kind: Mesh\nname: shop\n---\nkind: VirtualNode\nmesh: shop\nname: web\nspec: {}\n";

/// How long a call that was let in may go on without an end: it is a stream.
const STREAM_IS_OPEN: Duration = Duration::from_millis(500);

fn shop() -> MeshBox {
    install_provider();
    let mesh = MeshBox::start();
    mesh.apply(NODE);
    mesh
}

/// The path of every RPC that our protobuf files declare for this package.
fn rpcs(package: &str) -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut paths = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == package) {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{package}.{}/{}", service.name(), method.name()));
            }
        }
    }
    assert!(!paths.is_empty(), "{package} has no RPC");
    paths
}

/// A gRPC frame around a message.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Calls `path` with this body. `Ok` is also what a stream is that stays open.
async fn call_with(channel: &Channel, path: &str, body: Vec<u8>) -> Code {
    let request = http::Request::post(format!("http://control-plane.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(Bytes::from(body))))
        .unwrap();
    let mut channel = channel.clone();
    let response = match timeout(STREAM_IS_OPEN * 20, channel.ready().await.unwrap().call(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => return Code::Unknown,
        Err(_) => panic!("{path} is not answered"),
    };
    let status =
        |headers: &http::HeaderMap| headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    if let Some(code) = status(response.headers()) {
        return code;
    }
    match timeout(STREAM_IS_OPEN, response.into_body().collect()).await {
        Ok(Ok(body)) => body.trailers().and_then(status).unwrap_or(Code::Unknown),
        Ok(Err(_)) => Code::Unknown,
        Err(_) => Code::Ok,
    }
}

/// Calls `path` with an empty message.
async fn call(channel: &Channel, path: &str) -> Code {
    call_with(channel, path, frame(&[])).await
}

/// Whether the answer says that one may not. What belongs to the Unix socket is not there at all.
fn is_refused(path: &str, code: Code) -> bool {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => true,
        Code::Unimplemented => path.contains(".LocalAdmin/"),
        _ => false,
    }
}

/// Makes an admin and logs in as they would.
async fn log_in(mesh: &MeshBox, name: &str, role: Role) -> (Svid, KeyPair) {
    let request = CreateAdminRequest { name: name.to_owned(), roles: vec![role.into()] };
    let owner = dial::channel(mesh.admin_address(), dial::admin(mesh));
    let login_token = AdminsClient::new(owner).create_admin(request).await.unwrap().into_inner().login_token;
    let key = KeyPair::generate().unwrap();
    let csr = CertificateRequest::create(&key).unwrap();
    let mut stranger = AdminsClient::new(dial::channel(mesh.admin_address(), dial::stranger(mesh)));
    let request = LoginRequest { login_token, csr };
    // Whoever asks for more is refused, and has used up nothing.
    let refused = stranger.login(LoginRequest { csr: greedy_request(&key), ..request.clone() }).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let credential = stranger.login(request.clone()).await.unwrap().into_inner();
    let expected = format!("spiffe://box.test/admin/{name}");
    assert_eq!(names_of(&credential.chain[0]), [&*expected]);
    let mine = AdminsClient::new(dial::channel(
        mesh.admin_address(),
        dial::bearer(mesh, Svid::from_der(credential.chain.clone()).unwrap(), &key),
    ))
    .renew_credential(RenewCredentialRequest { csr: CertificateRequest::create(&key).unwrap() })
    .await
    .unwrap()
    .into_inner();
    assert_eq!(names_of(&mine.chain[0]), [&*expected]);
    let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    let other = stranger.login(LoginRequest { csr, ..request }).await;
    assert_eq!(other.unwrap_err().code(), Code::Unauthenticated, "it is good for one key");
    (Svid::from_der(credential.chain).unwrap(), key)
}

/// Every name that a certificate gives its holder.
fn names_of(certificate: &[u8]) -> Vec<String> {
    let (_, leaf) = X509Certificate::from_der(certificate).unwrap();
    assert!(!leaf.is_ca() && leaf.subject().iter().count() == 0, "{}", leaf.subject());
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => other.to_string(),
    };
    names.general_names.iter().map(name).collect()
}

fn admin_as(mesh: &MeshBox, (svid, key): &(Svid, KeyPair)) -> Channel {
    dial::channel(mesh.admin_address(), dial::bearer(mesh, svid.clone(), key))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_login_and_health_are_reachable() {
    let mesh = shop();
    let stranger = dial::channel(mesh.admin_address(), dial::stranger(&mesh));
    for path in rpcs("hauberk.admin.v1") {
        let code = call(&stranger, &path).await;
        assert!(is_refused(&path, code), "{path}: {code:?}");
    }
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        assert_eq!(call(&stranger, &path).await, Code::Unauthenticated, "{path}");
    }
    assert_eq!(call(&stranger, "/grpc.health.v1.Health/Check").await, Code::Ok);
    assert_ne!(call(&stranger, "/hauberk.admin.v1.Resources/Nonsense").await, Code::Ok);

    // Login is reachable: what it refuses is the token.
    let mut login = AdminsClient::new(stranger.clone());
    let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    let request = LoginRequest { login_token: "hbl1-nonsense".to_owned(), csr };
    let refused = login.login(request).await.unwrap_err();
    assert!(refused.message().contains("login token is unknown"), "{refused}");

    let owner = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    assert_eq!(call(&owner, "/hauberk.admin.v1.Resources/List").await, Code::Ok);
    let audit =
        AuditClient::new(owner).list(ListAuditRequest { refused_only: true, ..Default::default() }).await;
    let records = audit.unwrap().into_inner().records;
    assert!(records.iter().any(|record| record.action.starts_with("admin.login")), "{records:#?}");
    assert!(records.iter().all(|record| record.outcome() == AuditOutcome::Refused), "{records:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_no_admin() {
    let mesh = shop();
    let (svid, key) = dial::join(&mesh, "web").await;
    let workload = dial::channel(mesh.admin_address(), dial::bearer(&mesh, svid, &key));
    for path in rpcs("hauberk.admin.v1") {
        let code = call(&workload, &path).await;
        assert!(is_refused(&path, code), "{path}: {code:?}");
    }
    assert_eq!(call(&workload, "/grpc.health.v1.Health/Check").await, Code::Ok);
}

/// What only an agent may call.
const FOR_AGENTS: [&str; 5] = [
    "/hauberk.agent.v1.Enrollment/SignCertificate",
    "/hauberk.agent.v1.Mesh/Sync",
    "/hauberk.agent.v1.SvidTokens/MintToken",
    "/hauberk.agent.v1.Workloads/MintToken",
    "/hauberk.agent.v1.Workloads/SignCertificate",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_is_no_agent_and_the_apis_have_their_own_ports() {
    let mesh = shop();
    let owner_at_agents = dial::channel(mesh.agent_address(), dial::admin(&mesh));
    for path in FOR_AGENTS {
        let code = call(&owner_at_agents, path).await;
        assert!(matches!(code, Code::Unauthenticated | Code::PermissionDenied), "{path}: {code:?}");
    }
    for path in rpcs("hauberk.admin.v1") {
        assert_ne!(call(&owner_at_agents, &path).await, Code::Ok, "{path} is served to agents' port");
    }
    let owner = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    for path in rpcs("hauberk.agent.v1") {
        assert_ne!(call(&owner, &path).await, Code::Ok, "{path} is served on the admins' port");
    }
    let stranger = dial::channel(mesh.agent_address(), dial::stranger(&mesh));
    for path in FOR_AGENTS {
        assert_eq!(call(&stranger, path).await, Code::Unauthenticated, "{path}");
    }
}

/// Who may call what changes something; everything else is every admin's. Written out here a second time, so that a
/// slip in the access table shows.
fn may_call(path: &str, role: Role) -> bool {
    let Some((_, rpc)) = path.rsplit_once(".v1.") else { return false };
    let roles: &[Role] = match rpc {
        "Resources/Apply" | "Resources/Delete" => {
            &[Role::Editor, Role::PolicyAdmin, Role::IdentityAdmin, Role::BoundaryAdmin]
        }
        "Identities/CreateToken"
        | "Identities/DeleteToken"
        | "Revocations/Revoke"
        | "Revocations/Quarantine"
        | "Authorities/PrepareAuthority"
        | "Authorities/ActivateAuthority"
        | "Authorities/RotateAuthority"
        | "Authorities/TaintAuthority"
        | "Authorities/RevokeAuthority"
        | "Authorities/RequestAuthority"
        | "Authorities/InstallAuthority"
        | "Authorities/SignAuthority" => &[Role::IdentityAdmin],
        // A policy-admin only that of an issuer, as another test has it.
        "Federation/RefreshBundle" => &[Role::IdentityAdmin, Role::PolicyAdmin],
        "Admins/CreateAdmin" | "Admins/DeleteAdmin" | "System/SetLogFilter" => &[],
        "LocalAdmin/IssueCredential" => return false,
        _ => return true,
    };
    role == Role::Owner || roles.contains(&role)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_it_is_for() {
    let mesh = shop();
    let roles = [
        Role::Viewer,
        Role::Editor,
        Role::PolicyAdmin,
        Role::IdentityAdmin,
        Role::BoundaryAdmin,
        Role::Owner,
    ];
    for (number, role) in roles.into_iter().enumerate() {
        let admin = admin_as(&mesh, &log_in(&mesh, &format!("admin-{number}"), role).await);
        let mut denied = BTreeSet::new();
        for path in rpcs("hauberk.admin.v1") {
            if is_refused(&path, call(&admin, &path).await) {
                // Login is everybody's, and refuses this token as it would anybody's.
                if !path.ends_with("/Login") {
                    denied.insert(path);
                }
            }
        }
        let wanted: BTreeSet<String> =
            rpcs("hauberk.admin.v1").into_iter().filter(|path| !may_call(path, role)).collect();
        assert_eq!(denied, wanted, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_admin_asks_for_the_keys_of_issuers_and_for_no_bundle() {
    let mesh = shop();
    let refresh = async |channel: &Channel, trust_domain: &str, issuer: &str| {
        let request = RefreshBundleRequest {
            mesh: "shop".to_owned(),
            trust_domain: trust_domain.to_owned(),
            issuer: issuer.to_owned(),
        };
        FederationClient::new(channel.clone()).refresh_bundle(request).await.unwrap_err().code()
    };
    // Neither is there: whoever may ask is told so.
    for (name, role, of_bundle) in [
        ("policies", Role::PolicyAdmin, Code::PermissionDenied),
        ("identities", Role::IdentityAdmin, Code::NotFound),
    ] {
        let admin = admin_as(&mesh, &log_in(&mesh, name, role).await);
        assert_eq!(refresh(&admin, "partner.example", "").await, of_bundle, "{name}");
        assert_eq!(refresh(&admin, "", "login").await, Code::NotFound, "{name}");
    }
}

const GRANT: &str = r#"permit(principal == Node::"web", action, resource in Service::"orders");"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_grants_nothing() {
    let mesh = shop();
    mesh.apply(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - portMapping: {port: 80, protocol: http}\n  \
         - portMapping: {port: 81, protocol: http}\n---\nkind: VirtualService\nmesh: shop\nname: orders\nspec:\n  \
         provider: {virtualNode: {virtualNodeName: orders, port: 80}}\n",
    );
    let owner = admin_as(&mesh, &log_in(&mesh, "owner", Role::Owner).await);
    let editor = admin_as(&mesh, &log_in(&mesh, "editor", Role::Editor).await);
    let apply = async |channel: &Channel, name: &str, spec: Spec| {
        let resource = Resource {
            mesh: "shop".to_owned(),
            name: name.to_owned(),
            spec: Some(spec),
            ..Resource::default()
        };
        let request = ApplyRequest { resources: vec![resource], validate_only: false };
        ResourcesClient::new(channel.clone()).apply(request).await.map_err(|status| status.code())
    };
    let node = || Spec::VirtualNode(VirtualNodeSpec::default());
    let policy = || Spec::Policy(PolicySpec { cedar: GRANT.to_owned(), ..PolicySpec::default() });
    // All ports of the node, its second one too, become what is permitted.
    let wider = || {
        let node = VirtualNodeProvider { virtual_node_name: "orders".to_owned(), port: None };
        let provider = VirtualServiceProvider { provider: Some(Provider::VirtualNode(node)) };
        Spec::VirtualService(VirtualServiceSpec { provider: Some(provider) })
    };
    apply(&editor, "new", node()).await.unwrap();
    assert_eq!(apply(&editor, "grant", policy()).await.unwrap_err(), Code::PermissionDenied);
    apply(&owner, "grant", policy()).await.unwrap();
    assert_eq!(apply(&editor, "orders", wider()).await.unwrap_err(), Code::PermissionDenied);
    apply(&owner, "orders", wider()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_admin_is_refused_at_once_and_for_good() {
    let mesh = shop();
    let eve = log_in(&mesh, "eve", Role::Owner).await;
    let channel = admin_as(&mesh, &eve);
    let list =
        async |channel: &Channel| AdminsClient::new(channel.clone()).list_admins(ListAdminsRequest {}).await;
    list(&channel).await.unwrap();

    mesh.hauberk(&["admin", "delete", "eve"]).ok();
    // The connection that was open may have ended meanwhile; on a new one the reason is told.
    list(&channel).await.unwrap_err();
    assert_eq!(list(&admin_as(&mesh, &eve)).await.unwrap_err().code(), Code::Unauthenticated);

    // Another eve is another admin.
    let namesake = log_in(&mesh, "eve", Role::Viewer).await;
    list(&admin_as(&mesh, &namesake)).await.unwrap();
    assert_eq!(list(&channel).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays() {
    let mesh = shop();
    let owner = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    let request = DeleteAdminRequest { name: "admin".to_owned() };
    let refused = AdminsClient::new(owner.clone()).delete_admin(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    AdminsClient::new(owner).list_admins(ListAdminsRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_harm_nobody_else() {
    let mesh = shop();
    let owner = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    let stranger = dial::channel(mesh.agent_address(), dial::stranger(&mesh));
    let large = vec![0x0a; 6 << 20];
    let cut_short = [&[0], &1000_u32.to_be_bytes()[..], b"only this"].concat();
    let compressed = [&[1], &4_u32.to_be_bytes()[..], b"gzip"].concat();
    let claims_much = [&[0], &u32::MAX.to_be_bytes()[..]].concat();
    for (channel, path) in [
        (&owner, "/hauberk.admin.v1.Resources/Apply"),
        (&owner, "/hauberk.admin.v1.Resources/Watch"),
        (&stranger, "/hauberk.agent.v1.Enrollment/Attest"),
    ] {
        for (what, body) in [
            ("too large", frame(&large)),
            ("cut short", cut_short.clone()),
            ("no protobuf", frame(&[0xff; 64])),
            ("compressed", compressed.clone()),
            ("claims 4 GiB", claims_much.clone()),
            ("nothing at all", Vec::new()),
        ] {
            let code = call_with(channel, path, body).await;
            assert_ne!(code, Code::Ok, "{path}: {what}");
            let mut client = ResourcesClient::new(owner.clone());
            let listed = client.list(ListRequest::default()).await.unwrap().into_inner();
            assert_eq!(listed.resources.len(), 2, "{path}: {what}");
        }
    }
    mesh.hauberk(&["get", "meshes"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_huge_headers_are_refused() {
    let mesh = shop();
    let list = async |value: String| {
        let owner = dial::channel(mesh.admin_address(), dial::admin(&mesh));
        let mut request = tonic::Request::new(ListRequest::default());
        request.metadata_mut().insert("x-large", value.parse().unwrap());
        ResourcesClient::new(owner).list(request).await
    };
    list("x".repeat(1000)).await.unwrap();
    list("x".repeat(64 << 10)).await.unwrap_err();
    list("x".repeat(1000)).await.unwrap();
}
