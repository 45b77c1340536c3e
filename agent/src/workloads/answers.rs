//! Streams of whole answers, each as it is written.
//!
//! tonic encodes an answer into a buffer of its stream's own and keeps that for as long as the stream lives. But an
//! answer may hold revocation lists of megabytes, and a program may have a hundred streams on each of its connections.
//! So answers are encoded here, all but the lists: those are everybody's one copy, and are written from where they are.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::Message;
use tonic::Status;

use super::given::Given;
use super::pieces::{Content, Piece, field, have_lists};
use super::told::RevocationLists;

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2, Length-Prefixed-Message).
const PREFIX: usize = 5;

/// A message of which a stream of answers is made.
pub(super) trait Answer: Message + Sized {
    /// The number of its field that holds revocation lists, if there is one.
    const LISTS: Option<u8>;

    /// What a caller is given, all but the revocation lists.
    fn of(given: &Given) -> Self;
}

/// An answer, encoded, as far as it is not written yet.
#[derive(Debug)]
pub(super) struct Encoded {
    parts: VecDeque<Bytes>,
    /// The number of the revocation lists in it.
    pub(super) list: Option<u64>,
}

impl Encoded {
    /// What tonic has encoded.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { parts: [bytes].into(), list: None }
    }

    /// # Errors
    /// It is longer than any message.
    pub(super) fn of<A: Answer>(given: &Given) -> Result<(Self, Content), Status> {
        let RevocationLists { ders, number, .. } = &given.revocation_lists;
        let mut pieces = vec![Piece::of(&A::of(given))];
        for (lists, der) in A::LISTS.into_iter().flat_map(|lists| ders.iter().map(move |der| (lists, der))) {
            pieces.extend(field(lists, vec![Piece::Lists(der.clone())]));
        }
        let content = Content::of(&pieces, *number);
        Ok((Self::of_pieces(pieces, *number)?, content))
    }

    /// A message of these. `number`: of the revocation lists that may be among them.
    ///
    /// # Errors
    /// It is longer than any message.
    pub(super) fn of_pieces(pieces: Vec<Piece>, number: u64) -> Result<Self, Status> {
        let list = have_lists(&pieces).then_some(number);
        let length = u32::try_from(pieces.iter().map(Piece::len).sum::<usize>());
        let mut own = Vec::with_capacity(PREFIX);
        own.put_u8(0);
        own.put_u32(length.map_err(|_| Status::internal("the answer is too long"))?);
        let mut parts = VecDeque::new();
        for piece in pieces {
            match piece {
                Piece::Own(bytes) => own.extend(bytes),
                Piece::Lists(bytes) => parts.extend([mem::take(&mut own).into(), bytes]),
            }
        }
        parts.push_back(own.into());
        parts.retain(|part| !part.is_empty());
        Ok(Self { parts, list })
    }
}

impl Buf for Encoded {
    fn remaining(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        // No empty one stands before another.
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, part) in into.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(part) = self.parts.front_mut() {
            let here = part.len().min(count);
            part.advance(here);
            count -= here;
            if !part.is_empty() {
                return;
            }
            self.parts.pop_front();
        }
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

/// What a method of tonic's that streams answers with, in whose place [`Answers`] are sent.
pub(super) type Elsewhere<T> = tokio_stream::Empty<Result<T, Status>>;

/// Carries them past tonic, in the extensions of its answer.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Answers>>>);

/// An answer of tonic's that carries others, which are sent in place of what is in it.
pub(super) fn carrying<T>(answers: Answers, unsent: T) -> tonic::Response<T> {
    let mut response = tonic::Response::new(unsent);
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

    use super::super::given::has_identity;
    use super::super::testing::{Served, worker};
    use super::*;

    /// The message, as a client reads it.
    fn read<A: Answer + Default>(answer: &Encoded) -> A {
        let bytes = answer.parts.iter().flatten().copied().collect::<Vec<_>>();
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
            let ders = [list.clone(), Bytes::from_static(b"root"), list];
            let [der, others @ ..] = ders.clone();
            served.board.take_revocation_lists(pb::RevocationList {
                der,
                others: others.to_vec(),
                ..pb::RevocationList::default()
            });
            let crl: Vec<_> = ders.iter().map(|der| der.to_vec()).collect();
            let given = given().await;
            let encoded = Encoded::of::<X509BundlesResponse>(&given).unwrap().0;
            let wanted = X509BundlesResponse { crl: crl.clone(), ..X509BundlesResponse::of(&given) };
            assert_eq!(read::<X509BundlesResponse>(&encoded), wanted);
            let wanted = X509svidResponse { crl, ..X509svidResponse::of(&given) };
            assert_eq!(read::<X509svidResponse>(&Encoded::of::<X509svidResponse>(&given).unwrap().0), wanted);
            let answer = Encoded::of::<JwtBundlesResponse>(&given).unwrap().0;
            assert_eq!(read::<JwtBundlesResponse>(&answer), JwtBundlesResponse::of(&given));
            assert_eq!(answer.list, None);
            is_written_in_pieces(encoded);
        }
    }

    /// However much of it is taken at once.
    fn is_written_in_pieces(encoded: Encoded) {
        let whole = encoded.parts.iter().flatten().copied().collect::<Vec<_>>();
        for piece in [1000, whole.len()] {
            let mut left = Encoded { parts: encoded.parts.clone(), list: None };
            let mut written = Vec::new();
            while left.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 2];
                assert!(left.chunks_vectored(&mut slices) > 0 && *slices[0] == *left.chunk());
                written.extend(left.copy_to_bytes(piece.min(left.remaining())));
            }
            assert!(written == whole);
        }
    }

    #[tokio::test]
    async fn the_revocation_lists_of_all_answers_are_one_copy() {
        let served = told();
        let list = Bytes::from(vec![7; 2 << 20]);
        served.board.take_revocation_lists(pb::RevocationList {
            der: list.clone(),
            others: vec![list.clone()],
            ..pb::RevocationList::default()
        });
        let mut own = 0;
        for _ in 0..100 {
            let mut stream = served.api().answers::<X509BundlesResponse>(has_identity);
            let answer = stream.frame().await.unwrap().unwrap().into_data().unwrap();
            let (lists, others): (Vec<_>, Vec<_>) = answer.parts.iter().partition(|part| part.len() > 4096);
            assert_eq!(lists.iter().map(|part| part.as_ptr()).collect::<Vec<_>>(), [list.as_ptr(); 2]);
            own += others.iter().map(|part| part.len()).sum::<usize>();
        }
        assert!(own < 100 * 4096, "{own}");
    }

    #[tokio::test]
    async fn what_was_told_already_is_not_told_again() {
        let served = told();
        let list = |mark: u8| pb::RevocationList {
            der: Bytes::from(vec![mark; 9]),
            ..pb::RevocationList::default()
        };
        served.board.take_revocation_lists(list(1));
        let mut stream = served.api().answers::<X509BundlesResponse>(has_identity);
        let mut next = async || stream.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(read::<X509BundlesResponse>(&next().await).crl, [vec![1; 9]]);
        // As when a stream to the control plane begins anew.
        served.board.take_revocation_lists(list(1));
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        let telling = async {
            tokio::task::yield_now().await;
            served.board.take_revocation_lists(list(2));
        };
        let (answer, ()) = tokio::join!(next(), telling);
        assert_eq!(read::<X509BundlesResponse>(&answer).crl, [vec![2; 9]]);
    }
}
