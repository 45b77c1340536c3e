//! Servers that are not who they should be: a workload in the place of the control plane, or of another service.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, binary, dial, eventually, get};
use hauberk_tls::{ClientAuth, HandshakeError, KeyPair, LiveIdentity, Svid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};

use crate::{hostile::shop, shop::PATIENCE};

/// How each handshake with an impostor ended.
type Handshakes = mpsc::UnboundedReceiver<Result<(), HandshakeError>>;

/// Whether the next client refuses the impostor.
async fn refused(handshakes: &mut Handshakes) -> bool {
    timeout(PATIENCE, handshakes.recv()).await.expect("somebody connects").unwrap().is_err()
}

/// A TLS server with this credential, which answers one request after each good handshake.
async fn impostor((svid, key): (Svid, KeyPair), mesh: &MeshBox) -> (SocketAddr, Handshakes) {
    let live = LiveIdentity::new(dial::bundle(mesh));
    live.publish(svid, &key).unwrap();
    let acceptor = live.acceptor(&[b"http/1.1", b"h2"], ClientAuth::Optional, PATIENCE).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ended = match acceptor.accept(stream).await {
                Ok(connection) => {
                    let (mut stream, _) = connection.into_parts();
                    let mut head = [0; 4096];
                    // A refusal by the client shows here, since its side of the handshake ends last.
                    match timeout(PATIENCE, stream.read(&mut head)).await {
                        Ok(Ok(read)) if read > 0 => {
                            let answer =
                                b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nimpostor";
                            let _ = stream.write_all(answer).await;
                            let _ = stream.shutdown().await;
                            Ok(())
                        }
                        _ => Err(HandshakeError::Protocol("closed after the handshake".to_owned())),
                    }
                }
                Err(error) => Err(error),
            };
            if tell.send(ended).is_err() {
                return;
            }
        }
    });
    (address, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_cannot_pose_as_the_control_plane() {
    let (mesh, _app, _agent) = shop();
    let (address, mut handshakes) = impostor(dial::join(&mesh, "intruder").await, &mesh).await;

    // An agent that has nobody yet shows it no token and gives up.
    let mut options = AgentOptions { control_plane: Some(address.to_string()), ..AgentOptions::default() };
    let mut newcomer = Agent::spawn(&mesh, "web", &mut options);
    assert!(refused(&mut handshakes).await, "the agent has talked to a workload");
    assert_eq!(newcomer.process.wait(PATIENCE).code(), Some(78));
    assert!(newcomer.process.log().contains("is not a control plane"), "{}", newcomer.process.log());

    // One that has a certificate goes on with it, and keeps looking for the control plane.
    let mut enrolled = mesh.agent("web", AgentOptions::default());
    enrolled.process.kill();
    options.state_dir = Some(enrolled.state_dir().to_owned());
    let mut misled = Agent::spawn(&mesh, "web", &mut options).ready();
    assert!(
        refused(&mut handshakes).await && refused(&mut handshakes).await,
        "the agent has talked to a workload"
    );
    assert!(misled.process.is_running(), "{}", misled.process.log());
    drop(misled);

    let home = mesh.folder().join("misled");
    std::fs::create_dir(&home).unwrap();
    let contexts = std::fs::read_to_string(mesh.cli_home().join("contexts.toml")).unwrap();
    let misled = contexts.replace(mesh.admin_address(), &address.to_string());
    assert_ne!(contexts, misled);
    std::fs::write(home.join("contexts.toml"), misled).unwrap();
    let output =
        Command::new(binary("hauberk")).args(["get", "meshes"]).env("HAUBERK_HOME", home).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not a control plane"), "{said}");
    assert!(refused(&mut handshakes).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_cannot_pose_as_the_service_that_is_called() {
    let (mesh, _app, _agent) = shop();
    let (address, mut handshakes) = impostor(dial::join(&mesh, "intruder").await, &mesh).await;
    // Whoever answers there must be payments; the address alone proves nothing.
    let payments = |port: u16| {
        format!(
            "kind: VirtualNode\nmesh: shop\nname: payments\nspec:\n  listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]\n  \
             serviceDiscovery: {{fixed: {{endpoints: [{{address: 127.0.0.1, listenerPort: 8080, port: {port}}}]}}}}\n---\n\
             kind: VirtualService\nmesh: shop\nname: payments\nspec: {{provider: {{virtualNode: {{virtualNodeName: payments}}}}}}\n"
        )
    };
    mesh.apply(&payments(address.port()));
    let web = mesh.agent("web", AgentOptions::default());
    let answer = get(web.outbound(), "payments", "/charge").unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.body.contains("impostor"), "{answer:?}");
    assert!(refused(&mut handshakes).await, "the request was sent");

    // The permitted twin: the same server with the certificate of payments.
    let (address, mut handshakes) = impostor(dial::join(&mesh, "payments").await, &mesh).await;
    mesh.apply(&payments(address.port()));
    let answer = eventually("the service itself answers", PATIENCE, || {
        get(web.outbound(), "payments", "/charge").ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.body, "impostor");
    assert!(handshakes.recv().await.unwrap().is_ok());
}
