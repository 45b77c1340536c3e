use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
use rustls::crypto::hpke::Hpke as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

fn hello(name: &str) -> Vec<u8> {
    crate::install_provider();
    first_of(
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
        name,
    )
}

fn first_of(config: ClientConfig, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of at most so many bytes.
fn in_records_of(size: usize, hello: &[u8]) -> Vec<u8> {
    let fragments = hello[5..].chunks(size);
    fragments
        .flat_map(|fragment| [&hello[..3], &(fragment.len() as u16).to_be_bytes(), fragment].concat())
        .collect()
}

/// The same with one more extension at its end.
fn with_extension(hello: &[u8], kind: u16, content: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let more = 4 + content.len();
    // Behind version, random and session id are the cipher suites, and the compression methods.
    let suites = 5 + 4 + 2 + 32 + 1 + usize::from(hello[43]);
    let methods = suites + 2 + usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    let extensions = methods + 1 + usize::from(hello[methods]);
    for at in [3, 7, extensions] {
        let length = u16::from_be_bytes([hello[at], hello[at + 1]]) + more as u16;
        hello[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    hello.extend(kind.to_be_bytes());
    hello.extend((content.len() as u16).to_be_bytes());
    hello.extend(content);
    hello
}

#[test]
fn a_hello_says_whom_it_is_for() {
    let bytes = hello("Api.Partner.example");
    let asked = Greeting::Hello(Some("api.partner.example".to_owned()));
    assert_eq!(Greeting::of(&bytes), asked);
    for size in [1, 7] {
        assert_eq!(Greeting::of(&in_records_of(size, &bytes)), asked, "{size}");
    }
    assert_eq!(Greeting::of(&with_extension(&bytes, 0xabcd, b"anything")), asked);
    assert_eq!(Greeting::of(&hello("192.0.2.7")), Greeting::Hello(None));
    for end in [0, 1, 5, 6, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(Greeting::of(&bytes[..end]), Greeting::Incomplete, "{end}");
    }
}

#[test]
fn what_is_no_tls_is_known_as_soon_as_it_cannot_be() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", &[0; 16]] {
        assert_eq!(Greeting::of(bytes), Greeting::NotTls, "{bytes:?}");
    }
}

#[test]
fn a_hello_in_which_another_is_encrypted_is_told_from_others() {
    crate::install_provider();
    let (placeholder, _) = DH_KEM_X25519_HKDF_SHA256_AES_128.generate_key_pair().unwrap();
    let grease = EchMode::Grease(EchGreaseConfig::new(DH_KEM_X25519_HKDF_SHA256_AES_128, placeholder));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_ech(grease).unwrap();
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let greased = first_of(config, "api.partner.example");
    let plain = hello("api.partner.example");
    for bytes in
        [&greased, &with_extension(&plain, 0xfe0d, &[0; 40]), &with_extension(&plain, 0xffce, &[0; 40])]
    {
        for size in [9, 1_000, bytes.len()] {
            assert_eq!(Greeting::of(&in_records_of(size, bytes)), Greeting::HidesAnother, "{size}");
        }
        assert_eq!(Greeting::of(&bytes[..bytes.len() - 1]), Greeting::Incomplete);
    }
}

#[test]
fn two_names_are_none() {
    let named = [&[0, 12, 0, 0, 9][..], b"a.example"].concat();
    let twice = with_extension(&hello("api.partner.example"), 0, &named);
    assert_eq!((Greeting::of(&twice), RawHello::of(&twice)), (Greeting::NotTls, None));
}

proptest! {
    #[test]
    fn whoever_reads_a_hello_reads_the_same_name(
        name in "[a-zA-Z]([a-z0-9-]{0,10}[a-z0-9])?(\\.[a-z]([a-z0-9-]{0,10}[a-z0-9])?){0,3}",
        size in 1..2_000_usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        end in any::<proptest::sample::Index>(),
    ) {
        let whole = in_records_of(size, &hello(&name));
        let asked = Some(name.to_ascii_lowercase());
        prop_assert_eq!(Greeting::by_rustls(&whole), Greeting::Hello(asked.clone()));
        prop_assert!(RawHello::of(&whole).is_some_and(|raw| raw.asks_for(asked.as_deref()) && !raw.hides_another));

        let mut changed = whole;
        for (place, byte) in &changes {
            *place.get_mut(&mut changed) = *byte;
        }
        if changes.len() == 3 {
            changed.truncate(end.index(changed.len()));
        }
        if let (Greeting::Hello(host), Some(raw)) = (Greeting::by_rustls(&changed), RawHello::of(&changed)) {
            prop_assert!(raw.asks_for(host.as_deref()), "{:?} {:?}", host, raw);
        }
        Greeting::of(&changed);
    }

    #[test]
    fn nothing_is_too_odd_to_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        RawHello::of(&bytes);
        RawHello::of(&[&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &bytes].concat());
        Greeting::of(&bytes);
    }
}
