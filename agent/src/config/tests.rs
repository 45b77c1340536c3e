use clap::Parser;

use super::*;

fn load(args: &[&str]) -> Result<Config, ConfigError> {
    let flags = Flags::try_parse_from(["hauberk-agent", "run"].iter().chain(args)).unwrap();
    let Subcommand::Run(flags) = flags.subcommand else { unreachable!() };
    Config::load(*flags, |_| None)
}

#[test]
fn the_control_plane_is_all_that_must_be_said() {
    let config = load(&["--control-plane", "cp:7443"]).unwrap();
    assert_eq!(config.control_plane.authority(), "cp:7443");
    assert_eq!(config.outbound.to_string(), "127.0.0.1:15001");
    assert_eq!(config.health.to_string(), "0.0.0.0:15020");
    assert!(config.access_log);
    assert!(config.command.is_empty());
    assert!(load(&[]).unwrap_err().to_string().contains("--control-plane"));
}

#[test]
fn reads_everything() {
    let config = load(&[
        "--control-plane=[::1]:7443",
        "--tcp=127.0.0.1:6379=redis:6380",
        "--tcp=[::1]:0=postgres.db",
        "--listener=8080",
        "--listener=9090,inbound=0.0.0.0:0,app=127.0.0.1:1,advertise=10.0.0.1:9090",
        "--workload-api-socket=unix:///run/hauberk/api.sock",
        "--docker-socket=/var/run/docker.sock",
        "--drain-delay=5s",
        "--drain-timeout=500ms",
        "--access-log=off",
        "--",
        "app",
        "--flag",
    ])
    .unwrap();
    assert_eq!(config.control_plane.host, "::1");
    assert_eq!(config.control_plane.authority(), "[::1]:7443");
    assert_eq!(config.tcp[0].port, Some(6380));
    assert_eq!(config.tcp[1].service, "postgres.db");
    assert_eq!(config.listeners[0], ListenerConfig::default_for(8080));
    assert_eq!(config.listeners[1].advertise.unwrap().to_string(), "10.0.0.1:9090");
    assert_eq!(config.workload_api_socket.unwrap().to_str(), Some("/run/hauberk/api.sock"));
    assert_eq!(config.docker_socket.unwrap().to_str(), Some("/var/run/docker.sock"));
    assert_eq!(config.drain_delay, Some(Duration::from_secs(5)));
    assert_eq!(config.drain_timeout, Duration::from_millis(500));
    assert_eq!(config.command, ["app", "--flag"]);
}

#[test]
fn reports_all_mistakes_together() {
    let error = load(&[
        "--control-plane=nowhere",
        "--outbound=0.0.0.0:15001",
        "--admin=x",
        "--tcp=127.0.0.1:1",
        "--tcp=127.0.0.1:1=bad/name",
        "--listener=70000",
        "--listener=80,app=1",
        "--listener=81,what=127.0.0.1:1",
        "--advertise-ip=0.0.0.0",
        "--drain-timeout=20",
        "--log=a=b=c",
        "--log-format=xml",
        "--access-log=maybe",
        "--root-fingerprint=abc",
        "--workload-api-socket=api.sock",
    ])
    .unwrap_err();
    assert_eq!(error.mistakes.len(), 15, "{error}");
    for name in ["control-plane", "outbound", "admin", "tcp", "listener", "log", "root-fingerprint"] {
        assert!(error.mistakes.iter().any(|mistake| mistake.starts_with(name)), "{name}: {error}");
    }
}

#[test]
fn only_this_host_may_speak_as_the_node() {
    for address in ["0.0.0.0:15001", "[::]:15001", "10.0.0.1:15001", "[::ffff:127.0.0.1]:15001"] {
        for setting in [format!("--outbound={address}"), format!("--tcp={address}=redis")] {
            let error = load(&["--control-plane=cp:7443", &setting]).unwrap_err().to_string();
            assert!(
                error.contains("with this node's identity; use a loopback address"),
                "{setting}: {error}"
            );
        }
    }
    let config = load(&["--control-plane=cp:1", "--outbound=127.0.0.2:1", "--tcp=[::1]:2=redis"]).unwrap();
    assert_eq!((config.outbound.to_string(), config.tcp.len()), ("127.0.0.2:1".to_owned(), 1));
}

#[test]
fn durations_are_written_as_elsewhere() {
    let read = |text: &str| load(&["--control-plane=cp:1", &format!("--drain-timeout={text}")]);
    for (text, millis) in [
        ("0s", 0),
        ("500ms", 500),
        ("90s", 90_000),
        ("1m30s", 90_000),
        ("1h30m", 5_400_000),
        ("2h1m5s20ms", 7_265_020),
        ("24h", 86_400_000),
    ] {
        assert_eq!(read(text).unwrap().drain_timeout, Duration::from_millis(millis), "{text}");
    }
    for wrong in ["20", "s", "1h30", "30m1h", "1m1m", "1d", "-1s", "1h 30m", "1.5h", "1H"] {
        assert!(read(wrong).unwrap_err().to_string().contains("such as 20s or 1m30s"), "{wrong}");
    }
    for long in ["24h1ms", "99999999999999999h", "18446744073709551615h18446744073709551615m"] {
        assert!(read(long).unwrap_err().to_string().contains("a day is the most"), "{long}");
    }
}

#[test]
fn notices_what_only_two_settings_show() {
    let error = load(&[
        "--control-plane=cp:1",
        "--listener=80",
        "--listener=80",
        "--listener=81,inbound=127.0.0.1:81",
        "--admin=127.0.0.1:5",
        "--outbound=127.0.0.1:5",
        "--docker-socket=/var/run/docker.sock",
    ])
    .unwrap_err();
    assert_eq!(error.mistakes.len(), 4, "{error}");
}

#[test]
fn flags_come_before_the_file_and_unknown_settings_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(
        &path,
        "control-plane = \"file:1\"\naccess-log = false\ncommand = [\"app\"]\nlistener = [80, \"81,app=127.0.0.1:1\"]\n",
    )
    .unwrap();
    let config = format!("--config={}", path.display());
    let from_file = load(&[&config]).unwrap();
    assert_eq!(from_file.control_plane.host, "file");
    assert!(!from_file.access_log);
    assert_eq!(from_file.listeners.len(), 2);
    assert_eq!(from_file.command, ["app"]);
    let mixed = load(&[&config, "--control-plane=flag:1", "--listener=90", "--", "other"]).unwrap();
    assert_eq!(mixed.control_plane.host, "flag");
    assert_eq!(mixed.listeners.len(), 1);
    assert_eq!(mixed.command, ["other"]);
    std::fs::write(&path, "controlplane = \"x:1\"\nlisteners = []\nadmin = []\n").unwrap();
    let error = load(&[&config]).unwrap_err();
    assert_eq!(error.mistakes.len(), 4, "{error}");
    assert!(load(&["--config=/nonexistent", "--control-plane=a:1"]).is_err());
}

#[test]
fn a_secret_in_the_environment_is_a_mistake() {
    let flags = RunFlags { control_plane: Some("cp:1".to_owned()), ..RunFlags::default() };
    let error =
        Config::load(flags, |name| (name == "HAUBERK_JOIN_TOKEN").then(|| "hbk1-x".into())).unwrap_err();
    assert!(!error.to_string().contains("hbk1-x"));
    assert_eq!(error.mistakes.len(), 1);
}

#[test]
fn an_agent_joins_in_one_way() {
    let join = |more: &[&str]| load(&[&["--control-plane=cp:1"], more].concat());
    let file = |path: &str| SecretFile::from(PathBuf::from(path));
    let evidence = |more: &[&str]| match join(&[&["--enrollment=shop/vms"], more].concat()).unwrap().join {
        Some(Join::Evidence { enrollment, evidence }) => {
            assert_eq!((enrollment.mesh.as_str(), enrollment.name.as_str()), ("shop", "vms"));
            evidence
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(join(&[]).unwrap().join, None);
    assert_eq!(join(&["--join-token-file=t"]).unwrap().join, Some(Join::TokenFile(file("t"))));
    let x509pop = evidence(&["--x509pop-certificate=c", "--x509pop-key=k"]);
    assert_eq!(x509pop, EvidenceSource::X509Pop { certificate: file("c"), key: file("k") });
    assert_eq!(evidence(&["--kubernetes-token-file=t"]), EvidenceSource::Kubernetes(file("t")));
    let EvidenceSource::Aws { imds } = evidence(&["--aws-identity-document=on"]) else { panic!() };
    assert_eq!(imds.to_string(), "169.254.169.254:80");
    for address in
        ["127.0.0.1:8080", "[::1]:80", "169.254.169.253:80", "[fe80::1%2]:80", "[fd00:ec2::254]:80"]
    {
        let endpoint = format!("--aws-metadata-endpoint={address}");
        let EvidenceSource::Aws { imds } = evidence(&["--aws-identity-document=on", &endpoint]) else {
            panic!()
        };
        assert_eq!(imds.to_string(), address);
    }
    for (wrong, why) in [
        (&["--enrollment=shop/vms"][..], "what is shown to it?"),
        (&["--kubernetes-token-file=t"], "which one judges the evidence?"),
        (&["--enrollment=shop/vms", "--x509pop-certificate=c"], "one is of no use without the other"),
        (&["--enrollment=vms", "--kubernetes-token-file=t"], "write MESH/NAME"),
        (&["--enrollment=shop/vms", "--join-token-file=t", "--kubernetes-token-file=t"], "not by both"),
        (
            &["--enrollment=shop/vms", "--kubernetes-token-file=t", "--aws-identity-document=on"],
            "evidence of one kind",
        ),
        // Nobody else gets to say which instance this is.
        (
            &["--enrollment=a/b", "--aws-identity-document=on", "--aws-metadata-endpoint=10.0.0.1:80"],
            "a loopback or link-local address",
        ),
        (
            &["--enrollment=a/b", "--aws-identity-document=on", "--aws-metadata-endpoint=[fd00:ec2::253]:80"],
            "a loopback or link-local address",
        ),
        (
            &[
                "--enrollment=a/b",
                "--aws-identity-document=on",
                "--aws-metadata-endpoint=[fd00:ec2::254]:8080",
            ],
            "a loopback or link-local address",
        ),
    ] {
        let told = join(wrong).unwrap_err().to_string();
        assert!(told.contains(why), "{wrong:?}: {told}");
    }
}
