//! Programs that know nothing of a mesh: Redis by TCP, nginx by HTTP. Skipped where they are not installed.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hauberk_integration_tests::{AgentOptions, Process, eventually, free_port, get, request, skip};

use crate::shop::{self, PATIENCE, WEB_MAY_ALL, get_until};

/// Where a program is installed; says so and gives nothing if it is not.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let found = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

pub(crate) fn wait_until_listening(address: SocketAddr) {
    eventually("the program listens", PATIENCE, || TcpStream::connect(address).ok());
}

/// One command in Redis's protocol, and the first line of its answer, with the bulk that may follow.
fn redis(stream: &mut BufReader<TcpStream>, words: &[&[u8]]) -> Option<Vec<u8>> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    stream.get_mut().write_all(&command).ok()?;
    answer(stream)
}

fn answer(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    if stream.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let line = line.trim_end();
    let Some(length) = line.strip_prefix('$') else { return Some(line.as_bytes().to_vec()) };
    let mut bulk = vec![0; length.parse::<usize>().ok()? + 2];
    stream.read_exact(&mut bulk).ok()?;
    bulk.truncate(bulk.len() - 2);
    Some(bulk)
}

#[test]
fn redis_serves_through_the_mesh() {
    let Some(server) = installed("redis-server") else { return };
    let mesh = shop::open();
    let address = free_port();
    let mut command = Command::new(server);
    command
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--daemonize",
            "no",
        ])
        .current_dir(mesh.folder());
    let _server = Process::start("redis", mesh.folder(), command);
    wait_until_listening(address);
    let _redis = shop::redis(&mesh, address);
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    let connect = || {
        let stream = TcpStream::connect(web.tcp("cache:6379")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        BufReader::new(stream)
    };
    assert_eq!(redis(&mut connect(), &[b"PING"]), None, "denied before it is allowed");

    mesh.hauberk(&["allow", "web", "cache", "--wait"]).ok();
    let mut client = eventually("Redis answers", PATIENCE, || {
        let mut client = connect();
        (redis(&mut client, &[b"PING"])? == b"+PONG").then_some(client)
    });
    assert_eq!(redis(&mut client, &[b"SET", b"k", b"v"]).unwrap(), b"+OK");
    assert_eq!(redis(&mut client, &[b"GET", b"k"]).unwrap(), b"v");
    let large: Vec<u8> = (0..1_u32 << 20).map(|number| (number % 253) as u8).collect();
    assert_eq!(redis(&mut client, &[b"SET", b"large", &large]).unwrap(), b"+OK");
    assert!(redis(&mut connect(), &[b"GET", b"large"]).unwrap() == large);

    // Pipelined: a thousand questions before the first answer is read.
    let pipelined = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".repeat(1000);
    client.get_mut().write_all(&pipelined).unwrap();
    for number in 1..=1000 {
        assert_eq!(answer(&mut client).unwrap(), format!(":{number}").as_bytes());
    }
    if let Some(cli) = installed("redis-cli") {
        let port = web.tcp("cache:6379").port().to_string();
        let output = Command::new(cli).args(["-h", "127.0.0.1", "-p", &port, "GET", "k"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "v");
    }
}

/// nginx on `address`, with what is in `site`. `folder` holds what else it needs.
pub(crate) fn nginx(server: &Path, folder: &Path, address: SocketAddr, site: &Path) -> Process {
    nginx_with(server, folder, &format!("server {{ listen {address}; root {}; }}", site.display()))
}

/// nginx with these servers.
pub(crate) fn nginx_with(server: &Path, folder: &Path, servers: &str) -> Process {
    let configuration = folder.join("nginx.conf");
    let room = folder.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    fs::write(
        &configuration,
        format!(
            "{user} daemon off; master_process off; pid {room}/nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{\n  access_log off; client_body_temp_path {room}; proxy_temp_path {room};\n  \
             fastcgi_temp_path {room}; uwsgi_temp_path {room}; scgi_temp_path {room};\n  \
             {servers}\n}}\n"
        ),
    )
    .unwrap();
    let mut command = Command::new(server);
    command.arg("-c").arg(&configuration).arg("-p").arg(folder);
    Process::start("nginx", folder, command)
}

#[test]
fn nginx_serves_through_the_mesh() {
    let Some(server) = installed("nginx") else { return };
    let mesh = shop::open();
    let address = free_port();
    let site = mesh.folder().join("site");
    fs::create_dir(&site).unwrap();
    let page: String = (0..100_000).map(|number| char::from(b'a' + (number % 26) as u8)).collect();
    fs::write(site.join("page.txt"), &page).unwrap();
    let _server = nginx(&server, mesh.folder(), address, &site);
    wait_until_listening(address);
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let _orders = shop::orders(&mesh, address);
    let web = shop::caller(&mesh, "web");

    let whole = get_until(&web, "orders", "/page.txt", 200);
    assert!(whole.body == page);
    assert!(whole.header("server").unwrap().starts_with("nginx"));
    let etag = whole.header("etag").unwrap().to_owned();
    let ask = |line: &str| {
        let text = format!("GET /page.txt HTTP/1.1\r\nhost: orders\r\n{line}\r\nconnection: close\r\n\r\n");
        request(web.outbound(), &text).unwrap()
    };
    let part = ask("range: bytes=26-51");
    assert_eq!((part.status, part.body.as_str()), (206, "abcdefghijklmnopqrstuvwxyz"));
    assert_eq!(part.header("content-range"), Some("bytes 26-51/100000"));
    assert_eq!(ask(&format!("if-none-match: {etag}")).status, 304);
    assert_eq!(get(web.outbound(), "orders", "/nothing.txt").unwrap().status, 404);

    // Many requests over one connection, the last of them written before the first is answered.
    let mut stream = TcpStream::connect(web.outbound()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let ask = "GET /page.txt HTTP/1.1\r\nhost: orders\r\nrange: bytes=0-9\r\n\r\n";
    let last = "GET /page.txt HTTP/1.1\r\nhost: orders\r\nrange: bytes=0-9\r\nconnection: close\r\n\r\n";
    stream.write_all((ask.repeat(20) + last).as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 206 ").count(), 21, "{answers}");
    assert_eq!(answers.matches("abcdefghij").count(), 21);
}
