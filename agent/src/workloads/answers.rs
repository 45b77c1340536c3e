//! Streams of whole answers, each as it is written.
//!
//! tonic encodes an answer into a buffer of its stream's own and keeps that for as long as the stream lives. But an answer may
//! hold a revocation list of megabytes, and a program may have a hundred streams on each of its connections. So answers are encoded
//! here, all but the list: that is everybody's one copy, and is written from where it is.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::buf::Chain;
use bytes::{Buf, BufMut, Bytes};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::Message;
use tonic::Status;

use super::api::Given;
use super::told::RevocationList;

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2, Length-Prefixed-Message).
const PREFIX: usize = 5;

/// A message of which a stream of answers is made.
pub(super) trait Answer: Message + Sized {
    /// What stands before a revocation list in it: the number of its field and the wire type of bytes; `None` where none does.
    const LIST_KEY: Option<u8>;

    /// What a caller is given, all but the revocation list.
    fn of(given: &Given) -> Self;
}

/// An answer, encoded, as far as it is not written yet.
#[derive(Debug)]
pub(super) struct Encoded {
    bytes: Chain<Bytes, Bytes>,
    /// The number of the revocation list in it.
    pub(super) list: Option<u64>,
}

/// What tells one answer from another, without a copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    digest: Vec<u8>,
    list: Option<u64>,
}

impl Encoded {
    /// What tonic has encoded.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { bytes: bytes.chain(Bytes::new()), list: None }
    }

    /// # Errors
    /// It is longer than any message.
    pub(super) fn of<A: Answer>(given: &Given) -> Result<(Self, Content), Status> {
        let answer = A::of(given);
        let RevocationList { der, number } = &given.revocation_list;
        let key = A::LIST_KEY.filter(|_| !der.is_empty());
        let list = key.map(|_| *number);
        let of_list = key.map_or(0, |_| 1 + prost::length_delimiter_len(der.len()) + der.len());
        let too_long = || Status::internal("the answer is too long");
        let length = u32::try_from(answer.encoded_len() + of_list).map_err(|_| too_long())?;
        let mut head = Vec::with_capacity(PREFIX + answer.encoded_len() + 16);
        head.put_u8(0);
        head.put_u32(length);
        answer.encode(&mut head).map_err(|_| too_long())?;
        let content = Content { digest: digest(&SHA256, &head).as_ref().to_vec(), list };
        let mut der = der.clone();
        match key {
            Some(key) => {
                head.put_u8(key);
                prost::encode_length_delimiter(der.len(), &mut head).map_err(|_| too_long())?;
            }
            None => der = Bytes::new(),
        }
        Ok((Self { bytes: Bytes::from(head).chain(der), list }, content))
    }
}

impl Buf for Encoded {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(into)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// The body of a stream of answers. It ends with a status.
pub(super) struct Answers {
    answers: Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>,
    is_over: bool,
}

impl Answers {
    /// Of these, up to the first status.
    pub(super) fn new(answers: impl Stream<Item = Result<Encoded, Status>> + Send + 'static) -> Self {
        Self { answers: Box::pin(answers), is_over: false }
    }
}

impl Body for Answers {
    type Data = Encoded;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Encoded>, Status>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(match ready!(this.answers.as_mut().poll_next(cx)) {
            Some(Ok(answer)) => Frame::data(answer),
            Some(Err(status)) => {
                this.is_over = true;
                Frame::trailers(trailers(&status))
            }
            None => {
                this.is_over = true;
                Frame::trailers(trailers(&Status::ok("")))
            }
        })))
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Its words cannot be a header's.
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

/// What a method of tonic's answers with, in whose place [`Answers`] are sent.
pub(super) type Elsewhere<T> = tokio_stream::Empty<Result<T, Status>>;

/// Carries them past tonic, in the extensions of its answer.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Answers>>>);

/// An answer of tonic's that carries others.
pub(super) fn carrying<T>(answers: Answers) -> tonic::Response<Elsewhere<T>> {
    let mut response = tonic::Response::new(tokio_stream::empty());
    response.extensions_mut().insert(Carried(Arc::new(Mutex::new(Some(answers)))));
    response
}

/// The answers that this one carries.
pub(super) fn carried<B>(response: &mut http::Response<B>) -> Option<Answers> {
    let Carried(carried) = response.extensions_mut().remove()?;
    carried.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use hauberk_proto::agent::v1 as pb;
    use hauberk_proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svidResponse};
    use http_body_util::BodyExt;

    use super::super::api::has_identity;
    use super::super::testing::{Served, worker};
    use super::*;

    /// The message, as a client reads it.
    fn read<A: Answer + Default>(answer: &Encoded) -> A {
        let bytes = [&answer.bytes.first_ref()[..], &answer.bytes.last_ref()[..]].concat();
        let (prefix, message) = bytes.split_at(PREFIX);
        assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
        A::decode(message).unwrap()
    }

    fn told() -> Served {
        let served = Served::new();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        served
    }

    #[tokio::test]
    async fn an_answer_reads_as_if_it_were_encoded_whole() {
        let served = told();
        let given = async || served.api().follow().until(false, has_identity).await.unwrap();
        let without = given().await;
        assert!(
            read::<X509BundlesResponse>(&Encoded::of::<X509BundlesResponse>(&without).unwrap().0)
                .crl
                .is_empty()
        );
        // Lengths of one byte and of more.
        for length in [3, 127, 128, 2 << 20] {
            let list = Bytes::from(vec![7; length]);
            served.board.take_revocation_list(pb::RevocationList { der: list.clone() });
            let given = given().await;
            let wanted = X509BundlesResponse { crl: vec![list.to_vec()], ..X509BundlesResponse::of(&given) };
            assert_eq!(
                read::<X509BundlesResponse>(&Encoded::of::<X509BundlesResponse>(&given).unwrap().0),
                wanted
            );
            let wanted = X509svidResponse { crl: vec![list.to_vec()], ..X509svidResponse::of(&given) };
            assert_eq!(read::<X509svidResponse>(&Encoded::of::<X509svidResponse>(&given).unwrap().0), wanted);
            let (answer, content) = Encoded::of::<JwtBundlesResponse>(&given).unwrap();
            assert_eq!(read::<JwtBundlesResponse>(&answer), JwtBundlesResponse::of(&given));
            assert_eq!(content.list, None);
        }
    }

    #[tokio::test]
    async fn the_revocation_list_of_all_answers_is_one_copy() {
        let served = told();
        let list = Bytes::from(vec![7; 2 << 20]);
        served.board.take_revocation_list(pb::RevocationList { der: list.clone() });
        let mut own = 0;
        for _ in 0..100 {
            let mut stream = served.api().answers::<X509BundlesResponse>(has_identity);
            let answer = stream.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(answer.bytes.last_ref().as_ptr(), list.as_ptr());
            own += answer.bytes.first_ref().len();
        }
        assert!(own < 100 * 4096, "{own}");
    }

    #[tokio::test]
    async fn what_was_told_already_is_not_told_again() {
        let served = told();
        let list = |mark: u8| pb::RevocationList { der: Bytes::from(vec![mark; 9]) };
        served.board.take_revocation_list(list(1));
        let mut stream = served.api().answers::<X509BundlesResponse>(has_identity);
        let mut next = async || stream.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(read::<X509BundlesResponse>(&next().await).crl, [vec![1; 9]]);
        // As when a stream to the control plane begins anew.
        served.board.take_revocation_list(list(1));
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        let telling = async {
            tokio::task::yield_now().await;
            served.board.take_revocation_list(list(2));
        };
        let (answer, ()) = tokio::join!(next(), telling);
        assert_eq!(read::<X509BundlesResponse>(&answer).crl, [vec![2; 9]]);
    }
}
