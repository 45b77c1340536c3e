use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::message::{PREAMBLE, rest_of};
use super::*;
use crate::skipped::{Excuse, excuse};

/// A reply to the call with this serial number: one text of this type.
fn reply(to: u32, kind: &str, text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if kind == "v" {
        body.extend(b"\x01s\0\0");
    }
    body.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    body.extend(text.as_bytes());
    body.push(0);
    let mut fields = b"\x05\x01u\0".to_vec();
    fields.extend(to.to_le_bytes());
    fields.extend(b"\x08\x01g\0\x01");
    fields.extend(kind.as_bytes());
    fields.push(0);
    let mut message = b"l\x02\x01\x01".to_vec();
    message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    message.extend(77_u32.to_le_bytes());
    message.extend(u32::try_from(fields.len()).unwrap().to_le_bytes());
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}

fn read_call(stream: &mut BufReader<UnixStream>) -> String {
    let mut message = vec![0; PREAMBLE];
    stream.read_exact(&mut message).unwrap();
    message.resize(PREAMBLE + rest_of(message.first_chunk().unwrap()).unwrap(), 0);
    stream.read_exact(&mut message[PREAMBLE..]).unwrap();
    String::from_utf8_lossy(&message).into_owned()
}

/// A bus with a systemd that knows one unit, for one conversation.
fn bus(path: &Path) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("\0AUTH EXTERNAL 3"), "{line:?}");
        stream.get_mut().write_all(b"OK 1234deadbeef\r\n").unwrap();
        line.clear();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "BEGIN\r\n");
        for (member, kind, text) in [
            ("Hello", "s", ":1.7"),
            ("GetUnit", "o", "/org/freedesktop/systemd1/unit/worker_2eservice"),
            ("Get", "v", "/etc/systemd/system/worker.service"),
        ] {
            let call = read_call(&mut stream);
            assert!(call.contains(member), "{call:?}");
            let serial = match member {
                "Hello" => 1,
                "GetUnit" => 2,
                _ => 3,
            };
            // Something else comes in between, as signals do.
            stream.get_mut().write_all(&reply(99, "s", "of another call")).unwrap();
            stream.get_mut().write_all(&reply(serial, kind, text)).unwrap();
        }
    })
}

#[tokio::test]
async fn systemd_tells_of_a_units_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let serving = bus(&path);
    let told = Bus::connect(&path).await.unwrap().fragment_path("worker.service").await.unwrap();
    assert_eq!(told, "/etc/systemd/system/worker.service");
    serving.join().unwrap();
    // Now nobody is there.
    assert!(Bus::connect(&path).await.is_err());
}

#[tokio::test]
async fn a_bus_that_refuses_us_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        stream.read_line(&mut String::new()).unwrap();
        stream.get_mut().write_all(b"REJECTED EXTERNAL\r\n").unwrap();
    });
    let problem = Bus::connect(&path).await.unwrap_err().to_string();
    assert!(problem.contains("REJECTED EXTERNAL"), "{problem}");
    serving.join().unwrap();
}

/// Where a systemd runs, it is asked itself.
#[tokio::test]
async fn a_real_systemd_is_understood() {
    let skip = |why: &dyn std::fmt::Display| excuse(Excuse::Systemd, &format!("on {SYSTEM_BUS}: {why}"));
    let mut bus = match Bus::connect(Path::new(SYSTEM_BUS)).await {
        Ok(bus) => bus,
        Err(error) => return skip(&error),
    };
    match bus.fragment_path("basic.target").await {
        Ok(path) => assert!(path.ends_with("/basic.target"), "{path}"),
        Err(error) => return skip(&error),
    }
    let problem = bus.fragment_path("there-is-no-such.service").await.unwrap_err().to_string();
    assert!(problem.contains("NoSuchUnit"), "{problem}");
    assert_eq!(bus.fragment_path("init.scope").await.unwrap(), "", "made without a file");
}
