//! A small issuer of OpenID Connect: keys of ECDSA and RSA, tokens that say what they are told to, and a key set that
//! is served by https or written into the resource.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeySize, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
        RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An issuer with two keys, `ec` and `rsa`.
pub(crate) struct Login {
    pub(crate) name: &'static str,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

/// Where its keys are served.
pub(crate) struct Served {
    pub(crate) url: String,
    /// Where the certificate is by which the server is known.
    pub(crate) roots: PathBuf,
    says: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicU64>,
    _files: tempfile::TempDir,
    _server: tokio::runtime::Runtime,
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Login {
    pub(crate) fn new(name: &'static str) -> Self {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { name, ec, rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    pub(crate) fn issuer(&self) -> String {
        format!("https://{}.example", self.name)
    }

    pub(crate) fn jwks(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = self.ec.public_key().as_ref();
        let public: PublicKeyComponents<Vec<u8>> = self.rsa.public_key().into();
        let (n, e) = (text(&public.n), text(&public.e));
        let ec = json!({"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": text(&point[1..33]), "y": text(&point[33..])});
        let rsa = json!({"kty": "RSA", "kid": "rsa", "use": "sig", "alg": "PS256", "n": n, "e": e});
        json!({"keys": [ec, rsa, {"kty": "RSA", "kid": "enc", "use": "enc", "n": n, "e": e}]}).to_string()
    }

    /// The resource, with its keys written in it, and whatever else its spec says.
    pub(crate) fn resource(&self, more: &str) -> String {
        format!(
            "kind: JwtIssuer\nmesh: shop\nname: {}\nspec:\n  issuer: {}\n  audiences: [shop]\n  jwks: '{}'\n{more}",
            self.name,
            self.issuer(),
            self.jwks()
        )
    }

    /// What a token of this user says that ends after `life` seconds.
    pub(crate) fn claims(&self, user: &str, groups: &[&str], life: u64) -> Value {
        json!({"iss": self.issuer(), "sub": user, "aud": "shop", "exp": now() + life, "groups": groups})
    }

    /// A token of this user.
    pub(crate) fn token(&self, user: &str, groups: &[&str]) -> String {
        self.sign(&json!({"alg": "ES256", "kid": "ec", "typ": "JWT"}), &self.claims(user, groups, 600))
    }

    /// A token with this header, signed by the key that it names and as it says.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = if header["kid"] == "rsa" {
            let padding: &'static dyn RsaEncoding =
                if header["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, signed.as_bytes(), &mut signature).unwrap();
            signature
        } else {
            self.ec.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec()
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Serves its keys by https.
    pub(crate) fn serve(&self) -> Served {
        let files = tempfile::tempdir().unwrap();
        let roots = files.path().join("login.pem");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&roots, made.cert.pem()).unwrap();
        let certificate = hauberk_tls::WebCertificate::from_pem(
            &made.cert.pem(),
            made.signing_key.serialize_pem().as_bytes(),
        );
        let acceptor = certificate.unwrap().acceptor(std::time::Duration::from_secs(10)).unwrap();
        let says = Arc::new(Mutex::new(Some(self.jwks())));
        let asked = Arc::new(AtomicU64::new(0));
        let server =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = server.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("https://localhost:{}/jwks", socket.local_addr().unwrap().port());
        let (answers, counter) = (Arc::clone(&says), Arc::clone(&asked));
        server.spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (answer, acceptor) = (answers.lock().unwrap().clone(), acceptor.clone());
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let (Some(body), Ok(connection)) = (answer, acceptor.accept(stream).await) else {
                        return;
                    };
                    let (mut stream, _) = connection.into_parts();
                    let _ = stream.read(&mut [0; 4096]).await;
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Served { url, roots, says, asked, _files: files, _server: server }
    }
}

impl Served {
    /// Serves this key set from now on.
    pub(crate) fn says(&self, jwks: &str) {
        *self.says.lock().unwrap() = Some(jwks.to_owned());
    }

    /// Answers no longer.
    pub(crate) fn go_down(&self) {
        *self.says.lock().unwrap() = None;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}
