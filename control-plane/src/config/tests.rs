use super::*;

fn flags(pairs: &[(&'static str, &str)]) -> Flags {
    let mut flags = Flags::new();
    for (name, value) in pairs {
        flags.entry(*name).or_default().push((*value).to_owned());
    }
    flags
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn nothing_given_gives_the_defaults() {
    let settings = Settings::load(&Flags::new(), &variables(&[]), None).unwrap();
    assert_eq!(settings.agent_listen.to_string(), "0.0.0.0:7443");
    assert_eq!(settings.admin_listen.to_string(), "127.0.0.1:7444");
    assert_eq!(settings.svid_ttl, Duration::from_secs(3_600));
    assert_eq!(settings.kek_file, PathBuf::from("/var/lib/hauberk/key-encryption-key"));
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file() {
    let file = file(
        "svid-ttl = \"10m\"\nlog = \"warn\"\nagent-listen = \"127.0.0.1:1\"\nsan = [\"a.test\", \"::1\"]",
    );
    let settings = Settings::load(
        &flags(&[("svid-ttl", "30m"), ("data-dir", "/d")]),
        &variables(&[("HAUBERK_SVID_TTL", "20m"), ("HAUBERK_LOG", "debug")]),
        Some(file.path()),
    )
    .unwrap();
    assert_eq!(settings.svid_ttl, Duration::from_secs(1_800));
    assert_eq!(settings.log, "debug");
    assert_eq!(settings.agent_listen.to_string(), "127.0.0.1:1");
    assert_eq!(settings.sans, [SubjectName::Dns("a.test".into()), SubjectName::Ip("::1".parse().unwrap())]);
    assert_eq!(settings.kek_file, PathBuf::from("/d/key-encryption-key"));
}

#[test]
fn all_mistakes_are_told_together() {
    let file = file("svid_ttl = \"1h\"\nagent-listen = 7443\n");
    let error = Settings::load(
        &flags(&[("admin-listen", "localhost"), ("shutdown-deadline", "0s"), ("san", "ok.test,not ok")]),
        &variables(&[
            ("HAUBERK_SVID_TTL", "30s"),
            ("HAUBERK_HEALTH_LISTN", "127.0.0.1:1"),
            ("HAUBERK_CONTROL_PLANE_PORT", "tcp://10.0.0.1:7443"),
            ("HAUBERK_LOG_FORMAT", "yaml"),
        ]),
        Some(file.path()),
    )
    .unwrap_err();
    let text = error.to_string();
    for part in [
        "svid_ttl: is no setting; did you mean svid-ttl?",
        "agent-listen: a integer is no value for this",
        "--admin-listen: \"localhost\" is not an IP address and port",
        "--shutdown-deadline: \"0s\" is outside of 1s to 10m",
        "--san: \"not ok\" is neither",
        "HAUBERK_SVID_TTL: \"30s\" is outside of 1m to 24h",
        "HAUBERK_HEALTH_LISTN: is no setting; did you mean HAUBERK_HEALTH_LISTEN?",
        "HAUBERK_LOG_FORMAT: \"yaml\" is none of auto, json, text",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert_eq!(error.mistakes.len(), 8, "{text}");
}

#[test]
fn an_issuer_is_named_as_it_is_compared() {
    for (url, path) in [
        ("https://oidc.shop.test", ""),
        ("https://oidc.shop.test:8443", ""),
        ("https://shop.test/mesh/one", "/mesh/one"),
    ] {
        let issuer = IssuerUrl::parse(url).unwrap();
        assert_eq!((issuer.to_string().as_str(), issuer.path()), (url, path));
    }
    for url in [
        "",
        "shop.test",
        "http://shop.test",
        "https://",
        "https:///x",
        "https://shop.test/",
        "https://a@shop.test",
        "https://shop.test?x",
        "https://shop.test#x",
        "https://shop.test/x/",
        "HTTPS://shop.test",
        " https://shop.test",
    ] {
        assert!(IssuerUrl::parse(url).is_err(), "{url}");
    }
}

#[test]
fn what_goes_together_is_given_together() {
    let given = flags(&[("oidc-listen", "127.0.0.1:0"), ("oidc-key", "/k"), ("jwt-svid-ttl", "2h")]);
    let error = Settings::load(&given, &variables(&[]), None).unwrap_err().to_string();
    for part in [
        "--oidc-listen: is of no use without oidc-issuer",
        "--oidc-key: is of no use without oidc-certificate",
        "--jwt-svid-ttl: \"2h\" is outside of 1m to 1h",
    ] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
    let given = flags(&[("oidc-certificate", "/c"), ("oidc-key", "/k")]);
    let error = Settings::load(&given, &variables(&[]), None).unwrap_err().to_string();
    assert!(error.contains("--oidc-certificate: is of no use without oidc-listen"), "{error}");
    let given = flags(&[("bundle-certificate", "/c"), ("bundle-key", "/k")]);
    let error = Settings::load(&given, &variables(&[]), None).unwrap_err().to_string();
    assert!(error.contains("--bundle-certificate: is of no use without bundle-listen"), "{error}");
    let given = flags(&[("bundle-listen", "127.0.0.1:0"), ("bundle-key", "/k"), ("web-roots", "")]);
    let error = Settings::load(&given, &variables(&[]), None).unwrap_err().to_string();
    assert!(error.contains("--bundle-key: is of no use without bundle-certificate"), "{error}");
    assert!(error.contains("--web-roots: a path is needed"), "{error}");
    // What is given wrongly is not said to be missing too.
    let given = flags(&[("oidc-issuer", "http://oidc.shop.test"), ("oidc-listen", "127.0.0.1:0")]);
    let error = Settings::load(&given, &variables(&[]), None).unwrap_err().to_string();
    assert!(error.contains("is no issuer's URL") && !error.contains("of no use"), "{error}");
    let of_wrong_type = file("oidc-issuer = 1\noidc-listen = \"127.0.0.1:0\"");
    let error = Settings::load(&Flags::new(), &variables(&[]), Some(of_wrong_type.path())).unwrap_err();
    let [mistake] = error.mistakes.as_slice() else { panic!("it is told once: {error}") };
    assert!(mistake.place.ends_with("oidc-issuer") && mistake.message.contains("is no value"), "{error}");
    let given = flags(&[("oidc-issuer", "https://oidc.shop.test")]);
    assert_eq!(Settings::load(&given, &variables(&[]), None).unwrap().jwt_svid_ttl, Duration::from_secs(300));
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_a_mistake() {
    let missing = Settings::load(&Flags::new(), &variables(&[("HAUBERK_CONFIG", "/nonexistent.toml")]), None);
    assert!(missing.unwrap_err().to_string().contains("/nonexistent.toml: cannot be read"));
    let file = file("svid-ttl 1h");
    assert!(Settings::load(&Flags::new(), &variables(&[]), Some(file.path())).is_err());
}

#[test]
fn clusters_that_can_be_asked_are_named_with_their_credentials() {
    let given = flags(&[
        ("token-review", "prod=kubernetes.default.svc:443=/var/run/secrets/kubernetes.io/serviceaccount"),
        ("token-review", "lab=[2001:db8::1]:6443=/etc/hauberk/lab"),
    ]);
    let settings = Settings::load(&given, &variables(&[]), None).unwrap();
    let [prod, lab] = settings.token_review.as_slice() else { panic!("{settings:?}") };
    assert_eq!((prod.name.as_str(), prod.host.as_str(), prod.port), ("prod", "kubernetes.default.svc", 443));
    assert_eq!((lab.host.as_str(), lab.credentials.to_str().unwrap()), ("2001:db8::1", "/etc/hauberk/lab"));
    for wrong in
        ["prod", "prod=host=/d", "prod=host:0=/d", "prod=host:1=d", "prod=ho st:1=/d", "a/b=host:1=/d"]
    {
        let error = Settings::load(&flags(&[("token-review", wrong)]), &variables(&[]), None).unwrap_err();
        assert_eq!(error.mistakes.len(), 1, "{wrong}");
    }
}

#[test]
fn a_token_takes_its_module_its_label_and_its_pin() {
    let all = [
        ("pkcs11-module", "/usr/lib/softhsm/libsofthsm2.so"),
        ("pkcs11-token", "mesh"),
        ("pkcs11-pin-file", "/run/pin"),
    ];
    let token = Settings::load(&flags(&all), &variables(&[]), None).unwrap().token.unwrap();
    assert_eq!((token.label.as_str(), token.pin_file.to_str().unwrap()), ("mesh", "/run/pin"));
    assert_eq!(Settings::load(&flags(&[]), &variables(&[]), None).unwrap().token, None);
    for missing in 0..all.len() {
        let given: Vec<_> =
            (0..all.len()).filter(|index| *index != missing).map(|index| all[index]).collect();
        let error = Settings::load(&flags(&given), &variables(&[]), None).unwrap_err();
        let [mistake] = error.mistakes.as_slice() else { panic!("{error}") };
        assert_eq!(mistake.place, format!("--{}", given[0].0));
        assert_eq!(mistake.message, format!("is of no use without {}", all[missing].0));
    }
    for (name, wrong) in
        [("pkcs11-module", "libsofthsm2.so"), ("pkcs11-token", ""), ("pkcs11-token", "mesh ")]
    {
        let given: Vec<_> =
            all.iter().map(|(key, value)| (*key, if *key == name { wrong } else { value })).collect();
        let error = Settings::load(&flags(&given), &variables(&[]), None).unwrap_err();
        assert!(error.mistakes[0].place.ends_with(name), "{error}");
    }
}
