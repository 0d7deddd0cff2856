//! gRPC with bytes that no generated client would send.

use prost::bytes::{Buf as _, BufMut as _};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Bytes in, bytes out.
#[derive(Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// One unary call of `method`, as `/featureops.v1.FlagService/SetFlag`, whose message is exactly these bytes.
///
/// # Errors
/// The server's answer, when it is an error.
pub async fn call(channel: &Channel, method: &'static str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = grpc.unary(Request::new(message), PathAndQuery::from_static(method), Bytes).await?;
    Ok(answer.into_inner())
}

/// A field of the protobuf wire format whose content is delimited by its length.
#[must_use]
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number << 3) | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// `google.protobuf.Struct` with `levels` objects inside each other, built without recursion on this side.
#[must_use]
pub fn deep_struct(levels: usize) -> Vec<u8> {
    // Value { bool_value: true }
    let mut value = vec![0x20, 1];
    for _ in 0..levels {
        // fields { key: "a", value }, as the struct inside another Value { struct_value }.
        let entry = [field(1, b"a"), field(2, &value)].concat();
        value = field(5, &field(1, &entry));
    }
    // The outermost Value's content is the Struct itself.
    field(1, &[field(1, b"a"), field(2, &value)].concat())
}
