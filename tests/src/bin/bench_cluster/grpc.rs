//! As much of gRPC and of etcd's messages as a Put needs: unary calls over HTTP/2, and fields by their numbers.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, client};
use hyper::Request;
use tokio::net::TcpStream;

/// One connection to one member of etcd. Clones share it.
#[derive(Clone)]
pub(crate) struct EtcdClient {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
}

impl EtcdClient {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = client::handshake(stream).await?;
        tokio::spawn(async move {
            // Whoever still asks is told so by the call that fails.
            drop(connection.await);
        });
        Ok(Self { requests, address })
    }

    /// `etcdserverpb.PutRequest`: key 1, value 2.
    pub(crate) async fn put(&self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        let mut message = BytesMut::new();
        put_bytes(&mut message, 1, key);
        put_bytes(&mut message, 2, value);
        self.call("/etcdserverpb.KV/Put", &message).await.map(drop)
    }

    /// Whether this member leads: `etcdserverpb.StatusResponse` has the header as 1, with the member's own id as 2, and the
    /// leader's id as 4.
    pub(crate) async fn leads(&self) -> anyhow::Result<bool> {
        let status = self.call("/etcdserverpb.Maintenance/Status", &[]).await?;
        let fields = fields(status)?;
        let number = |fields: &[(u64, Field)], wanted| {
            fields.iter().find_map(|(number, field)| match field {
                Field::Number(value) if *number == wanted => Some(*value),
                Field::Number(_) | Field::Bytes(_) => None,
            })
        };
        let header = fields.iter().find_map(|(number, field)| match field {
            Field::Bytes(bytes) if *number == 1 => Some(bytes.clone()),
            Field::Bytes(_) | Field::Number(_) => None,
        });
        let header = self::fields(header.context("a status without header")?)?;
        let leader = number(&fields, 4).context("etcd has no leader")?;
        Ok(number(&header, 2) == Some(leader))
    }

    async fn call(&self, path: &str, message: &[u8]) -> anyhow::Result<Bytes> {
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(request, false)?;
        body.send_data(framed(message), true)?;
        let response = response.await?;
        ensure!(
            response.status().is_success(),
            "etcd answered {}",
            response.status()
        );
        if let Some(status) = response.headers().get("grpc-status") {
            bail!("{path} was answered {status:?} at once");
        }
        read_answer(response.into_body())
            .await
            .with_context(|| path.to_owned())
    }
}

async fn read_answer(mut body: RecvStream) -> anyhow::Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.context("an answer without trailers")?;
    let status = trailers.get("grpc-status").context("an answer without status")?;
    ensure!(status == "0", "answered with status {status:?}");
    ensure!(bytes.len() >= PREFIX_BYTES, "an answer without message");
    bytes.advance(PREFIX_BYTES);
    Ok(bytes.freeze())
}

/// Not compressed, the length, the message.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("messages of this benchmark are short"));
    framed.put_slice(message);
    framed.freeze()
}

enum Field {
    Number(u64),
    Bytes(Bytes),
}

/// The fields of a message that are numbers or bytes. No other kind is in those that are read here.
fn fields(mut message: Bytes) -> anyhow::Result<Vec<(u64, Field)>> {
    let mut fields = Vec::new();
    while message.has_remaining() {
        let tag = take_number(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(take_number(&mut message)?),
            2 => {
                let length = usize::try_from(take_number(&mut message)?)?;
                ensure!(length <= message.len(), "a field that is longer than its message");
                Field::Bytes(message.split_to(length))
            }
            other => bail!("a field of kind {other}"),
        };
        fields.push((tag >> 3, field));
    }
    Ok(fields)
}

fn take_number(message: &mut Bytes) -> anyhow::Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        ensure!(message.has_remaining(), "a message that ends too early");
        let byte = message.get_u8();
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number of more than 64 bits")
}

fn put_bytes(message: &mut BytesMut, field: u8, bytes: &[u8]) {
    message.put_u8(field << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        message.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}

const PREFIX_BYTES: usize = 5;
