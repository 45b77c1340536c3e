//! `hauberk-agent api validate`: whether a token proves what it says, for people and for programs without a library.

use std::fs::File;
use std::io::{self, Read, stdin};
use std::path::Path;
use std::time::Duration;

use hauberk_proto::workload::ValidateJwtsvidRequest;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::json;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::client::{ApiError, connect, judge, marked};
use crate::config::ValidateFlags;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than any token has.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// Asks once, and gives the SPIFFE id, and the claims as JSON on the lines after it.
///
/// # Errors
/// [`ApiError::NoProof`] where the token proves nothing; otherwise nobody knows.
pub async fn validate(flags: &ValidateFlags) -> Result<String, ApiError> {
    let svid = read_token(&flags.token_file)?;
    let request = ValidateJwtsvidRequest { audience: flags.audience.clone(), svid: svid.to_string() };
    let ask = async {
        let mut client = connect(&flags.socket).await?;
        let answer = client.validate_jwtsvid(marked(request)).await;
        answer.map_err(|status| match status.code() {
            Code::InvalidArgument => ApiError::NoProof(status.message().to_owned()),
            _ => judge(status),
        })
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await;
    let answer = answer
        .unwrap_or_else(|_| Err(ApiError::Answer(Status::deadline_exceeded("nothing within ten seconds"))))?
        .into_inner();
    let claims = object(answer.claims.unwrap_or_default());
    Ok(format!("{}\n{claims:#}\n", answer.spiffe_id))
}

/// From a file, or standard input as `-`: what stands on a command line everybody of the machine may read.
fn read_token(path: &Path) -> Result<Zeroizing<String>, ApiError> {
    let read = |from: &mut dyn Read| -> io::Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::new());
        from.take(LONGEST_TOKEN + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = match path.to_str() {
        Some("-") => read(&mut stdin().lock()),
        _ => File::open(path).and_then(|mut file| read(&mut file)),
    };
    let text = text.map_err(|error| ApiError::Usage(format!("--token-file: {}: {error}", path.display())))?;
    match text.trim() {
        "" => Err(ApiError::Usage("--token-file: there is no token in it".to_owned())),
        token if token.len() as u64 > LONGEST_TOKEN => {
            Err(ApiError::NoProof(format!("it has more than {LONGEST_TOKEN} bytes")))
        }
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

fn object(of: Struct) -> serde_json::Value {
    of.fields.into_iter().map(|(name, value)| (name, in_json(value))).collect()
}

fn in_json(value: Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => json!(value),
        // Instants, which protobuf has as fractions too; up to here they are exact.
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9e15 => json!(value as i64),
        Some(Kind::NumberValue(value)) => json!(value),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(in_json).collect(),
        Some(Kind::StructValue(of)) => object(of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_without_what_is_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " a.b.c\n").unwrap();
        assert_eq!(*read_token(&path).unwrap(), "a.b.c");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read_token(&path), Err(ApiError::Usage(_))));
        std::fs::write(&path, "a".repeat(70_000)).unwrap();
        assert!(matches!(read_token(&path), Err(ApiError::NoProof(_))));
        assert!(matches!(read_token(&folder.path().join("none")), Err(ApiError::Usage(_))));
    }

    #[test]
    fn instants_are_whole_numbers() {
        let number = |value| Value { kind: Some(Kind::NumberValue(value)) };
        assert_eq!(in_json(number(1_800_000_000.0)).to_string(), "1800000000");
        assert_eq!(in_json(number(1.5)).to_string(), "1.5");
    }
}
