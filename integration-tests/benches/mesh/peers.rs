//! The same chain through proxies that people know, where they are installed: client → A (plaintext
//! in, mutual TLS out) → B (client certificate required) → backend. Certificates are made here.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hauberk_integration_tests::{Process, eventually, free_port};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A running pair.
#[derive(Debug)]
pub struct Pair {
    /// What it is.
    pub name: &'static str,
    /// Where clients connect.
    pub entry: SocketAddr,
    /// A and B.
    pub processes: Vec<Process>,
}

impl Pair {
    /// Processor seconds used so far, worker processes included.
    pub fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(|process| process.cpu_seconds() + children_cpu(process.id())).sum()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Killed, a master would leave its workers behind.
        for process in &mut self.processes {
            process.stop(Duration::from_secs(10));
        }
    }
}

fn children_cpu(parent: u32) -> f64 {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let of_one = |child: &str| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some((fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?) / 100.0)
    };
    listed.split_whitespace().filter_map(of_one).sum()
}

/// Starts a pair of each proxy that is installed.
pub fn pairs(folder: &Path, backend: SocketAddr) -> Vec<Pair> {
    let certificates = certificates(folder);
    let (nginx, haproxy, envoy) = (installed("nginx"), installed("haproxy"), installed("envoy"));
    let mut found = Vec::new();
    if let Some(program) = nginx {
        found.push(pair("nginx http", folder, |entry, exit| {
            let a = nginx_a(&certificates, entry, exit);
            let b = nginx_b(&certificates, exit, backend);
            [("nginx-a.conf", a), ("nginx-b.conf", b)].map(|(name, text)| {
                let mut command = Command::new(&program);
                command.arg("-c").arg(write(folder, name, &text)).arg("-p").arg(folder);
                command
            })
        }));
    }
    if let Some(program) = haproxy {
        found.push(pair("haproxy http", folder, |entry, exit| {
            let a = haproxy_a(&certificates, entry, exit);
            let b = haproxy_b(&certificates, exit, backend);
            [("haproxy-a.cfg", a), ("haproxy-b.cfg", b)].map(|(name, text)| {
                let mut command = Command::new(&program);
                command.arg("-db").arg("-f").arg(write(folder, name, &text));
                command
            })
        }));
    }
    if let Some(program) = envoy {
        found.push(pair("envoy http", folder, |entry, exit| {
            let a = envoy_config(entry, exit, None, Some(&certificates));
            let b = envoy_config(exit, backend, Some(&certificates), None);
            [("envoy-a.json", a), ("envoy-b.json", b)].map(|(name, text)| {
                let mut command = Command::new(&program);
                command.args(["--use-dynamic-base-id", "--log-level", "error", "--concurrency", "2", "-c"]);
                command.arg(write(folder, name, &text));
                command
            })
        }));
    }
    found
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn pair(
    name: &'static str,
    folder: &Path,
    commands: impl FnOnce(SocketAddr, SocketAddr) -> [Command; 2],
) -> Pair {
    let (entry, exit) = (free_port(), free_port());
    let side =
        |side: &str, command| Process::start(&format!("{}-{side}", name.replace(' ', "-")), folder, command);
    let [a, b] = commands(entry, exit);
    let processes = vec![side("a", a), side("b", b)];
    eventually(&format!("{name} listens"), Duration::from_secs(10), || TcpStream::connect(entry).ok());
    Pair { name, entry, processes }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// Files of one authority and one leaf that both sides use.
struct Certificates {
    ca: PathBuf,
    chain: PathBuf,
    key: PathBuf,
    both: PathBuf,
}

fn certificates(folder: &Path) -> Certificates {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A leaf of its authority's own name would pass for self-signed.
    ca.distinguished_name.push(DnType::CommonName, "peers");
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["peer.test".to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let both = format!("{}{}", leaf.pem(), leaf_key.serialize_pem());
    Certificates {
        ca: write(folder, "peer-ca.pem", &ca_certificate.pem()),
        chain: write(folder, "peer.pem", &leaf.pem()),
        key: write(folder, "peer.key", &leaf_key.serialize_pem()),
        both: write(folder, "peer-both.pem", &both),
    }
}

const NGINX: &str = "daemon off; worker_processes 2; error_log stderr error; pid nginx-NAME.pid;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  client_body_temp_path nginx-NAME-body; proxy_temp_path nginx-NAME-proxy; fastcgi_temp_path nginx-NAME-f;
  uwsgi_temp_path nginx-NAME-u; scgi_temp_path nginx-NAME-s;
";

fn nginx_a(files: &Certificates, entry: SocketAddr, exit: SocketAddr) -> String {
    format!(
        "{}  upstream next {{ server {exit}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen {entry}; location / {{ proxy_pass https://next; proxy_http_version 1.1;
    proxy_set_header Connection \"\"; proxy_ssl_certificate {}; proxy_ssl_certificate_key {};
    proxy_ssl_trusted_certificate {}; proxy_ssl_verify on; proxy_ssl_name peer.test; proxy_ssl_protocols TLSv1.3; }} }} }}\n",
        NGINX.replace("NAME", "a"),
        files.chain.display(),
        files.key.display(),
        files.ca.display(),
    )
}

fn nginx_b(files: &Certificates, exit: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "{}  upstream app {{ server {backend}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen {exit} ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {};
    ssl_verify_client on; ssl_protocols TLSv1.3;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
        NGINX.replace("NAME", "b"),
        files.chain.display(),
        files.key.display(),
        files.ca.display(),
    )
}

const HAPROXY: &str = "global\n  nbthread 2\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n";

fn haproxy_a(files: &Certificates, entry: SocketAddr, exit: SocketAddr) -> String {
    format!(
        "{HAPROXY}listen a\n  bind {entry}\n  server next {exit} ssl crt {} ca-file {} verify required verifyhost peer.test force-tlsv13\n",
        files.both.display(),
        files.ca.display(),
    )
}

fn haproxy_b(files: &Certificates, exit: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "{HAPROXY}listen b\n  bind {exit} ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3\n  server app {backend}\n",
        files.both.display(),
        files.ca.display(),
    )
}

fn envoy_config(
    listen: SocketAddr,
    next: SocketAddr,
    serve: Option<&Certificates>,
    call: Option<&Certificates>,
) -> String {
    let address = |at: SocketAddr| serde_json::json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
    let tls = |files: &Certificates| {
        serde_json::json!({
            // Envoy's own calls go up to 1.2 unless told.
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": files.chain}, "private_key": {"filename": files.key}}],
            "validation_context": {"trusted_ca": {"filename": files.ca}, "match_typed_subject_alt_names":
                [{"san_type": "DNS", "matcher": {"exact": "peer.test"}}]},
        })
    };
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{name}");
    let mut chain = serde_json::json!({"filters": [{
    "name": "envoy.filters.network.http_connection_manager",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }}]});
    if let Some(files) = serve {
        chain["transport_socket"] = serde_json::json!({"name": "tls", "typed_config": {
            "@type": kind("DownstreamTlsContext"), "require_client_certificate": true,
            "common_tls_context": tls(files)}});
    }
    let mut cluster = serde_json::json!({"name": "next", "connect_timeout": "5s", "type": "STATIC",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints":
            [{"endpoint": {"address": address(next)}}]}]}});
    if let Some(files) = call {
        cluster["transport_socket"] = serde_json::json!({"name": "tls", "typed_config": {
            "@type": kind("UpstreamTlsContext"), "sni": "peer.test", "common_tls_context": tls(files)}});
    }
    serde_json::json!({"static_resources": {
        "listeners": [{"name": "in", "address": address(listen), "filter_chains": [chain]}],
        "clusters": [cluster]}})
    .to_string()
}
