//! Evidence that counts once: identity documents of EC2 instances.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{RsaKeySize, SigningKey};

use super::*;

/// What signs the documents of a region.
struct Region {
    key: KeyPair,
    pem: String,
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let len = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, len[0], len[1]], contents.as_slice()].concat()
}

impl Region {
    fn new() -> Self {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "region");
        params.serial_number = Some(vec![7].into());
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, pem }
    }

    /// A document and its signature, as the metadata service gives them.
    fn document(&self, instance: &str) -> Evidence {
        let content = format!(
            r#"{{"accountId":"123456789012","architecture":"x86_64","availabilityZone":"eu-west-1a","billingProducts":null,
            "imageId":"ami-5fb8c835","instanceId":"{instance}","instanceType":"t3.micro","pendingTime":"2026-11-19T16:32:11Z",
            "privateIp":"10.158.112.84","region":"eu-west-1","version":"2017-09-30"}}"#
        );
        let signature = self.key.sign(content.as_bytes()).unwrap();
        let oid = |bytes: &[u8]| [&[6, u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let pkcs = |end: &[u8]| oid(&[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01], end].concat());
        let sha_256 = tlv(0x30, &[&oid(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01])]);
        let name = [&[0x30, 17, 0x31, 15, 0x30, 13, 6, 3, 0x55, 4, 3, 0x0c, 6], &b"region"[..]].concat();
        let signer = tlv(
            0x30,
            &[
                &[2, 1, 1],
                &tlv(0x30, &[&name, &[2, 1, 7]]),
                &sha_256,
                &tlv(0x30, &[&pkcs(&[1, 1]), &[5, 0]]),
                &tlv(4, &[&signature]),
            ],
        );
        let text = tlv(0xa0, &[&tlv(4, &[content.as_bytes()])]);
        let encapsulated = tlv(0x30, &[&pkcs(&[7, 1]), &text]);
        let digests = tlv(0x31, &[&sha_256]);
        let signed = tlv(0x30, &[&[2, 1, 1], &digests, &encapsulated, &tlv(0x31, &[&signer])]);
        let document = STANDARD.encode(tlv(0x30, &[&pkcs(&[7, 2]), &tlv(0xa0, &[&signed])]));
        Evidence::Aws(
            document
                .as_bytes()
                .chunks(64)
                .map(|line| [line, b"\n"].concat())
                .fold(String::new(), |text, line| text + std::str::from_utf8(&line).unwrap()),
        )
    }
}

async fn enroll_instances(scratch: &Scratch, uid: &str, region: &Region) {
    let certificates = region.pem.clone();
    let evidence = Some(Source::Aws(wire::AwsEvidence { certificates }));
    let rules = vec![attest_rule("orders", &["aws:account:123456789012", "aws:region:eu-west-1"])];
    put_enrollment(scratch, uid, wire::AttestEnrollment { rules, evidence }).await;
}

#[tokio::test]
async fn a_document_counts_for_the_first_key_and_those_that_it_is_renewed_to() {
    let (scratch, region) = (scratch().await, Region::new());
    enroll_instances(&scratch, "first", &region).await;
    let document = || region.document("i-0123456789abcdef0");
    let (_, csr) = request();
    let first = show(&scratch, document(), &csr).await.unwrap();
    assert_eq!(show(&scratch, document(), &csr).await.unwrap().instance, first.instance);
    let record = scratch.control.ledger.instance(&first.instance).await.unwrap().unwrap();
    let evidence = record.evidence.unwrap();
    assert_eq!(evidence.subject, "instance i-0123456789abcdef0 of account 123456789012");
    for selector in
        ["aws:image-id:ami-5fb8c835", "aws:instance-type:t3.micro", "aws:availability-zone:eu-west-1a"]
    {
        assert!(evidence.selectors.contains(&selector.to_owned()), "{evidence:?}");
    }
    // Whoever else has read the document.
    let (_, thief) = request();
    refused(&scratch, show(&scratch, document(), &thief).await, "counts for the first key that shows it")
        .await;
    show(&scratch, region.document("i-00000000000000001"), &thief).await.unwrap();

    // An agent that was off for long comes back by the key that it last had, or, where the answer was lost, by the one before.
    let peer = scratch.peer(&first.issued.svid);
    let (_, second) = request();
    let renewed = scratch.control.enrollment.renew(&peer, &second, "10.0.0.7:4").await.unwrap();
    show(&scratch, document(), &csr).await.unwrap();
    show(&scratch, document(), &second).await.unwrap();
    let (_, third) = request();
    let peer = scratch.peer(&renewed.issued.svid);
    scratch.control.enrollment.renew(&peer, &third, "10.0.0.7:4").await.unwrap();
    show(&scratch, document(), &third).await.unwrap();
    refused(&scratch, show(&scratch, document(), &csr).await, "counts for the first key that shows it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_show_one_document_at_once_one_comes_in() {
    let (scratch, region) = (scratch().await, Region::new());
    enroll_instances(&scratch, "first", &region).await;
    let scratch = Arc::new(scratch);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (scratch, document) = (scratch.clone(), region.document("i-0123456789abcdef0"));
        tasks.spawn(async move { show(&scratch, document, &request().1).await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|came_in| *came_in).count(), 1);
    assert_eq!(scratch.control.ledger.certificates(None, None, 100).await.unwrap().certificates.len(), 1);
}

#[tokio::test]
async fn for_whom_a_document_counted_is_kept_while_its_enrollment_is_there() {
    let (scratch, region) = (scratch().await, Region::new());
    enroll_instances(&scratch, "first", &region).await;
    let document = || region.document("i-0123456789abcdef0");
    show(&scratch, document(), &request().1).await.unwrap();
    let control = &scratch.control;
    scratch.clock.advance(Duration::from_secs(400 * 86_400));
    control.ledger.prune(scratch.clock.now()).await.unwrap();
    assert_eq!(control.enrollment.prune_attested().await.unwrap(), 1, "the instance is gone");
    refused_at_all(show(&scratch, document(), &request().1).await);
    enroll_instances(&scratch, "second", &region).await;
    refused_at_all(show(&scratch, document(), &request().1).await);
    assert_eq!(control.enrollment.prune_attested().await.unwrap(), 1);
    assert!(control.store.list(keys::ATTESTED_ONCE, None, 10).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_copied_document_is_of_no_use_while_whoever_came_by_it_holds_a_certificate() {
    let (scratch, region) = (scratch().await, Region::new());
    enroll_instances(&scratch, "first", &region).await;
    let document = || region.document("i-0123456789abcdef0");
    let (_, csr) = request();
    let peer = scratch.peer(&show(&scratch, document(), &csr).await.unwrap().issued.svid);
    let control = &scratch.control;
    let prune = async || {
        control.ledger.prune(scratch.clock.now()).await.unwrap();
        control.enrollment.prune_attested().await.unwrap();
    };
    // The enrollment is deleted and made anew, and what is forgotten is forgotten in between and after.
    let key = keys::resource("Enrollment", NODE.0, "vms");
    control.store.commit(Commit::new().delete(key)).await.unwrap();
    prune().await;
    enroll_instances(&scratch, "second", &region).await;
    prune().await;
    refused_at_all(show(&scratch, document(), &request().1).await);
    show(&scratch, document(), &csr).await.unwrap();
    enroll_instances(&scratch, "third", &region).await;
    // The certificate has expired a moment ago.
    scratch.clock.advance(Duration::from_secs(3_601));
    prune().await;
    refused_at_all(show(&scratch, document(), &request().1).await);
    let late = control.enrollment.renew(&peer, &csr, "10.0.0.7:4").await;
    assert!(matches!(late, Err(EnrollmentError::CertificateExpired)), "{late:?}");
    scratch.clock.advance(Duration::from_secs(3_600));
    prune().await;
    show(&scratch, document(), &request().1).await.unwrap();
}

#[tokio::test]
async fn whoever_renews_keeps_others_from_coming_by_the_same_document() {
    let (scratch, region) = (scratch().await, Region::new());
    enroll_instances(&scratch, "first", &region).await;
    let document = || region.document("i-0123456789abcdef0");
    let (control, (_, first)) = (&scratch.control, request());
    let renew = async |peer, csr: &[u8]| control.enrollment.renew(peer, csr, "10.0.0.7:4").await.unwrap();
    let peer = scratch.peer(&show(&scratch, document(), &first).await.unwrap().issued.svid);
    // For whom it counted is forgotten, as releases did whose enrollment was made anew.
    for (key, _) in control.store.list(keys::ATTESTED_ONCE, None, 10).await.unwrap().entries {
        control.store.commit(Commit::new().delete(key)).await.unwrap();
    }
    enroll_instances(&scratch, "second", &region).await;
    let (_, second) = request();
    let renewed = scratch.peer(&renew(&peer, &second).await.issued.svid);
    refused_at_all(show(&scratch, document(), &request().1).await);
    for key in [&second, &first] {
        show(&scratch, document(), key).await.unwrap();
    }
    let (_, third) = request();
    renew(&renewed, &third).await;
    show(&scratch, document(), &third).await.unwrap();
    // A certificate before the last two does not get to say for whom it counts.
    let (_, stale) = request();
    renew(&peer, &stale).await;
    refused_at_all(show(&scratch, document(), &stale).await);
    show(&scratch, document(), &third).await.unwrap();
}

/// Its authority may have expired meanwhile, which is no matter here.
fn refused_at_all(result: Result<Enrolled, EnrollmentError>) {
    let refused = result.unwrap_err();
    assert!(matches!(refused, EnrollmentError::NotAttested(NotAttested::Taken { .. })), "{refused}");
}

#[tokio::test]
async fn documents_of_others_and_what_is_none_are_refused() {
    let (scratch, region, other) = (scratch().await, Region::new(), Region::new());
    enroll_instances(&scratch, "first", &region).await;
    let (_, csr) = request();
    let foreign = show(&scratch, other.document("i-0123456789abcdef0"), &csr).await;
    refused(&scratch, foreign, "the document's signature is wrong").await;
    let text = show(&scratch, Evidence::Aws("{}".to_owned()), &csr).await;
    refused(&scratch, text, "the document is not base64").await;
    let nothing = show(&scratch, Evidence::Aws(String::new()), &csr).await;
    refused(&scratch, nothing, "not exactly one CMS SignedData").await;
    let unclear = show(&scratch, region.document("i-0 OR 1=1"), &csr).await;
    refused(&scratch, unclear, "no instance identity document").await;
}
