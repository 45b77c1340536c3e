//! A small OpenID Connect issuer for the people of the shop. It really signs what it says, and asks nobody for a
//! password: who reaches it on this machine is whom they say.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hauberk_identity::{Serial, SpiffeId, TrustDomain, Validity};
use hauberk_tls::jwt::{JwtBundle, JwtSigner, KeyUse};
use hauberk_tls::{Acceptor, IssuingAuthority, KeyPair, LiveIdentity, RootAuthority, SvidTemplate};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::error::DemoError;
use super::listen;
use crate::clock;

/// Where it says who it is, and by what it is known.
pub(super) const ADDRESS_FILE: &str = "issuer.json";
pub(super) const ROOTS_FILE: &str = "roots.pem";

/// Whom its tokens are for.
pub(super) const AUDIENCE: &str = "shop";

/// How long a token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// How long its own certificate is.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The largest form that anybody needs to sign in, in bytes.
const FORM_BYTES: usize = 1_024;

/// Who there is, and in which groups.
const PEOPLE: [(&str, &[&str]); 3] =
    [("alice", &["support"]), ("bob", &["staff"]), ("mona", &["managers", "support"])];

/// Where it works.
#[derive(Debug, Args)]
pub(crate) struct IssuerArguments {
    /// Where it listens
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The folder that gets issuer.json, which names its URL, and roots.pem, by which it is known
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
}

struct Issuer {
    url: String,
    signer: JwtSigner,
    configuration: Bytes,
    keys: Bytes,
}

/// Serves until it is told to stop.
pub(super) async fn run(arguments: IssuerArguments) -> Result<ExitCode, DemoError> {
    let IssuerArguments { listen, folder } = arguments;
    let listener =
        TcpListener::bind(listen).await.map_err(DemoError::io(format!("cannot listen on {listen}")))?;
    let address = listener.local_addr()?;
    let (acceptor, roots) = acceptor(address).map_err(DemoError::Issuer)?;
    let issuer = Arc::new(Issuer::new(address).map_err(DemoError::Issuer)?);
    write(&folder.join(ROOTS_FILE), &roots)?;
    write(&folder.join(ADDRESS_FILE), &json!({ "issuer": issuer.url }).to_string())?;
    eprintln!("the issuer of the shop's users is {}", issuer.url);
    let open = move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stream).await.ok().map(|connection| connection.into_parts().0) }
    };
    let answer = move |request| {
        let issuer = Arc::clone(&issuer);
        async move { issuer.answer(request).await }
    };
    listen::serve(listener, open, answer).await
}

/// What goes wrong with keys and certificates.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What accepts connections at an address, with a certificate under a root that is made for it, which is given too.
fn acceptor(address: SocketAddr) -> Result<(Acceptor, String), Fault> {
    let domain = TrustDomain::parse("login.demo")?;
    let now = clock::now();
    let validity = Validity::new(now.minus(Duration::from_secs(300)), now.plus(CERTIFICATE_LIFE))?;
    // The authority signs nothing else and is forgotten with this process.
    let serial = |number| Serial::from_random([number; 16]);
    let root = RootAuthority::create(&domain, validity, serial(1))?;
    let issuing = IssuingAuthority::create(&root, validity, serial(2))?;
    let key = KeyPair::generate()?;
    let svid = issuing.sign(&SvidTemplate {
        id: SpiffeId::parse("spiffe://login.demo/workload/issuer")?,
        public_key: key.public_key(),
        serial: serial(3),
        validity,
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec![address.ip()],
    })?;
    let live = LiveIdentity::new(issuing.root_bundle().clone());
    live.publish(svid, &key)?;
    Ok((live.web_acceptor(HANDSHAKE)?, issuing.root_bundle().to_pem()))
}

impl Issuer {
    fn new(address: SocketAddr) -> Result<Self, Fault> {
        let url = format!("https://{address}");
        let signer = JwtSigner::generate()?;
        let keys = JwtBundle::new(TrustDomain::parse("login.demo")?, [signer.public_key()?])?;
        let configuration = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/keys"),
            "token_endpoint": format!("{url}/sign-in"),
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "groups"],
        });
        let keys = keys.to_jwks(KeyUse::Signature).into();
        Ok(Self { url, signer, configuration: configuration.to_string().into(), keys })
    }

    async fn answer(&self, request: Request<Incoming>) -> http::Result<Response<Full<Bytes>>> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/.well-known/openid-configuration") => {
                (StatusCode::OK, self.configuration.clone())
            }
            (&Method::GET, "/keys") => (StatusCode::OK, self.keys.clone()),
            (&Method::POST, "/sign-in") => {
                match Limited::new(request.into_body(), FORM_BYTES).collect().await {
                    Ok(form) => self.sign_in(&String::from_utf8_lossy(&form.to_bytes())),
                    Err(_) => refused("invalid_request", "a form with `user` is needed"),
                }
            }
            _ => (StatusCode::NOT_FOUND, Bytes::new()),
        };
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CACHE_CONTROL, "no-store")
            .body(Full::from(body))
    }

    /// Answers a form as token endpoints do (RFC 6749 §5).
    fn sign_in(&self, form: &str) -> (StatusCode, Bytes) {
        let named = form.split('&').find_map(|field| field.strip_prefix("user="));
        let Some((user, groups)) = PEOPLE.iter().find(|(user, _)| Some(*user) == named) else {
            let people = PEOPLE.map(|(user, _)| user).join(", ");
            return refused("access_denied", &format!("in this shop there are {people}"));
        };
        match self.signer.sign_content(&self.claims(user, groups)) {
            Ok(token) => {
                let life = TOKEN_LIFE.as_secs();
                let body = json!({ "access_token": *token, "token_type": "Bearer", "expires_in": life });
                (StatusCode::OK, body.to_string().into())
            }
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
        }
    }

    fn claims(&self, user: &str, groups: &[&str]) -> Value {
        let now = clock::now();
        json!({
            "iss": self.url,
            "sub": user,
            "aud": AUDIENCE,
            "iat": now.as_secs(),
            "exp": now.plus(TOKEN_LIFE).as_secs(),
            "groups": groups,
        })
    }
}

fn refused(error: &str, description: &str) -> (StatusCode, Bytes) {
    let body = json!({ "error": error, "error_description": description });
    (StatusCode::BAD_REQUEST, body.to_string().into())
}

/// Writes a file that others wait for: it is there as a whole or not at all.
fn write(file: &Path, text: &str) -> Result<(), DemoError> {
    let cannot = |error: io::Error| DemoError::io(format!("cannot write {}", file.display()))(error);
    let partial = file.with_extension("partial");
    std::fs::write(&partial, text).map_err(cannot)?;
    std::fs::rename(&partial, file).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use hauberk_tls::jwt::{JwtKeySet, UserTokens};

    use super::*;

    #[test]
    fn who_signs_in_gets_a_token_that_its_keys_verify() {
        let issuer = Issuer::new("127.0.0.1:8443".parse().unwrap()).unwrap();
        let (status, body) = issuer.sign_in("x=1&user=alice");
        assert_eq!(status, StatusCode::OK);
        let answered: Value = serde_json::from_slice(&body).unwrap();
        let keys = JwtKeySet::from_jwks(&issuer.keys).unwrap();
        let audiences = [AUDIENCE.to_owned()];
        let rules = UserTokens {
            issuer: "https://127.0.0.1:8443",
            audiences: &audiences,
            audience_is_client: false,
            keys: &keys,
        };
        let token = answered["access_token"].as_str().unwrap();
        let verified = rules.verify(token, clock::now()).unwrap();
        assert_eq!(
            (&verified.claims["sub"], &verified.claims["groups"]),
            (&json!("alice"), &json!(["support"]))
        );
        for stranger in ["", "user=", "user=mallory", "user=alice%20", "name=alice"] {
            assert_eq!(issuer.sign_in(stranger).0, StatusCode::BAD_REQUEST, "{stranger}");
        }
    }
}
