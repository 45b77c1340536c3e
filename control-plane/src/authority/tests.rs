use hauberk_identity::UnixMillis;

use super::make::ISSUING_LIFE;
use super::*;
use crate::registry::{Commit, SledStore};

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

#[tokio::test]
async fn what_is_founded_is_loaded_again_and_keys_are_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let sealing = |kek| KeyStore::new(Arc::new(kek), None);
    let keys = sealing(KeyEncryptionKey::create(&directory.path().join("kek")).unwrap());
    let store = SledStore::create(&directory.path().join("registry")).unwrap();
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    assert!(matches!(Authority::load(&store, &keys).await, Err(AuthorityError::Unfinished)));
    let (commit, founded, _keys) = found(&trust_domain, vec!["cp.test".into()], &keys, NOW).await.unwrap();
    store.commit(commit.clone()).await.unwrap();
    assert!(store.commit(commit).await.is_err(), "an installation is founded once");

    let loaded = Authority::load(&store, &keys).await.unwrap();
    assert_eq!(loaded.root_fingerprint(), founded.root_fingerprint());
    assert_eq!(loaded.root_fingerprint().len(), 64);
    assert_eq!(loaded.issuing().serial(), founded.issuing().serial());
    assert_eq!(loaded.view_keys(), founded.view_keys());
    assert_eq!((loaded.epoch(), loaded.sans()), (NOW.0, ["cp.test".to_owned()].as_slice()));
    let life = loaded.issuing().validity().not_after().since(NOW);
    assert_eq!(life, ISSUING_LIFE);

    let plain = founded.issuing().key().to_pkcs8_der().unwrap();
    for (_, stored) in store.list("", None, 100).await.unwrap().entries {
        let text = String::from_utf8(stored.value.to_vec()).unwrap();
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, plain.as_slice());
        assert!(!text.contains(&encoded));
    }
    let other = sealing(KeyEncryptionKey::create(&directory.path().join("other")).unwrap());
    let error = Authority::load(&store, &other).await.unwrap_err().to_string();
    assert!(error.contains("does not open under this key-encryption key"), "{error}");
}

#[tokio::test]
async fn a_key_that_is_in_a_token_is_not_looked_for_anywhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let kek = Arc::new(KeyEncryptionKey::create(&directory.path().join("kek")).unwrap());
    let keys = KeyStore::new(kek, None);
    let store = SledStore::create(&directory.path().join("registry")).unwrap();
    let (commit, founded, _keys) =
        found(&TrustDomain::parse("shop.local").unwrap(), Vec::new(), &keys, NOW).await.unwrap();
    store.commit(commit).await.unwrap();

    let serial = founded.issuing().serial().to_string();
    let key = Kind::Issuing.key(&serial);
    let stored = store.get(&key).await.unwrap().unwrap();
    let mut record: records::AuthorityRecord = document::from_stored(&key, &stored).unwrap();
    record.token_key = Some(records::TokenKeyRecord {
        label: "mesh".to_owned(),
        token_serial: "6b4d34a81cb1eab2".to_owned(),
        id: vec![7; 16],
        public_key: founded.issuing().key().public_key().spki_der().to_vec(),
    });
    let value = document::to_bytes(&key, &record).unwrap();
    store.commit(Commit::new().put(key, value)).await.unwrap();
    assert_eq!(
        Authority::load(&store, &keys).await.unwrap_err().to_string(),
        format!(
            "the key of issuing authority {serial} is in the PKCS#11 token \"mesh\" (serial number \
             6b4d34a81cb1eab2): set --pkcs11-module, --pkcs11-token and --pkcs11-pin-file"
        )
    );
}
