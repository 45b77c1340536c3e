//! No connection goes on where another left off: what was decided about a peer is decided anew each time.

use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;

use super::*;

/// A client of a hostile kind: it keeps every ticket and offers it.
#[tokio::test]
async fn a_client_that_wants_to_resume_is_made_to_prove_itself_again() {
    let acceptor = OURS.live("mesh/shop/node/orders").acceptor(&[], ClientAuth::Required, LIMIT).unwrap();
    let web = OURS.live("mesh/shop/node/web");
    let expected = ServerExpectation::AnyOf([OURS.id("mesh/shop/node/orders")].into());
    let verifier = VerifyServer(ServerTrust::Live(web.clone(), expected));
    let mut config = ClientConfig::clone(&client_config(verifier, Some(web), &[]).unwrap());
    config.resumption = Resumption::in_memory_sessions(8);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for _ in 0..3 {
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("agent.test").unwrap();
        let serve = async {
            let (mut stream, _) = acceptor.accept(far).await.unwrap().into_parts();
            stream.write_all(b"x").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let call = async {
            let mut stream = connector.connect(name, near).await.unwrap();
            // Tickets come after the handshake.
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            stream.get_ref().1.handshake_kind()
        };
        let ((), kind) = tokio::join!(serve, call);
        assert!(
            matches!(kind, Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)),
            "{kind:?}"
        );
    }
}
