//! Where somebody with a service's key and agent goes besides ports of the mesh: to hosts outside that others may call,
//! and to the sockets that answer without a certificate.

use hauberk_integration_tests::{Agent, App, MeshBox, Response, request};

use crate::{
    compromised::{CLAIMS, METHODS, PLAIN, USER},
    shop::get_until,
};

/// A host outside of the mesh that orders may call, and web may not.
pub(crate) struct Outside {
    app: App,
    host: String,
    /// How often orders did.
    asked: u64,
}

impl Outside {
    pub(crate) fn of_orders(mesh: &MeshBox, orders: &Agent) -> Self {
        let app = App::start("outside");
        let port = app.address().port();
        let resource = format!(
            "kind: ExternalService\nmesh: shop\nname: outside\nspec:\n  hosts: [localhost]\n  \
             ports: [{{port: {port}, protocol: http}}]\n  allowedAddresses: [127.0.0.0/8]\n"
        );
        mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &resource).ok();
        let host = format!("localhost:{port}");
        get_until(orders, &host, "/public", 200);
        let asked = app.requests();
        Self { app, host, asked }
    }

    /// Whatever is said to web's agent, and however the host is spelled.
    pub(crate) fn is_closed_to(&self, web: &Agent) {
        let port = self.app.address().port();
        let spellings = [
            self.host.clone(),
            format!("LOCALHOST.:{port}"),
            format!("127.0.0.1:{port}"),
            format!("127.1:{port}"),
            format!("2130706433:{port}"),
            format!("[::ffff:127.0.0.1]:{port}"),
            format!("orders@localhost:{port}"),
        ];
        let ask = |line: &str, host: &str, lines: &str| {
            let text = format!(
                "{line} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: 0\r\nconnection: close\r\n\r\n"
            );
            request(web.outbound(), &text).unwrap()
        };
        let refused = |answer: &Response, what: &str| assert!(answer.status >= 400, "{what}: {answer:?}");
        for host in &spellings {
            for service in ["orders", "outside", "external/outside", "localhost"] {
                let claims =
                    CLAIMS.replace("hauberk-service: orders", &format!("hauberk-service: {service}"));
                for lines in ["", &claims, USER] {
                    refused(&ask("GET /public", host, lines), host);
                    refused(&ask(&format!("GET http://{host}/public"), host, lines), host);
                    refused(&ask(&format!("GET http://{host}/public"), "orders", lines), host);
                    refused(&ask(&format!("CONNECT {host}"), host, lines), host);
                }
            }
        }
        for (method, path) in METHODS.into_iter().flat_map(|method| PLAIN.map(|path| (method, path))) {
            refused(&ask(&format!("{method} {path}"), &self.host, ""), path);
        }
        assert_eq!(self.app.requests(), self.asked, "{:?}", self.app.heads());
    }
}

/// What agents and the control plane answer to whoever asks is whether they live, and figures.
pub(crate) fn asks_where_probes_ask(mesh: &MeshBox, agents: &[&Agent]) {
    let control_plane = mesh.health_address().parse().unwrap();
    for address in agents.iter().map(|agent| agent.health()).chain([control_plane]) {
        for path in ["/", "/config", "/drain", "/log", "/logging", "/debug/pprof", "/v1/agent/self", "/certs"]
        {
            for method in METHODS {
                let text = format!(
                    "{method} {path} HTTP/1.1\r\nhost: health\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let answer = request(address, &text).unwrap();
                assert!(answer.status >= 400, "{address} {method} {path}: {answer:?}");
            }
        }
        let figures =
            request(address, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        assert_eq!(figures.status, 200);
        for secret in ["PRIVATE KEY", "BEGIN CERTIFICATE", "eyJ", "permit("] {
            assert!(!figures.body.contains(secret), "{address}: {secret}");
        }
    }
}
