//! Drives one rpc with requests that take turns, which h2load cannot: each of the calls in flight goes through its own
//! share of them, so that no two calls of the same request are ever under way together.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use tokio::{net::TcpStream, runtime::Builder, task::JoinSet};

/// Sends requests for so many seconds over so many connections; answers each call's time in microseconds.
pub(crate) fn drive(
    address: &str,
    path: &str,
    bodies: &Arc<Vec<Bytes>>,
    (connections, in_flight): (usize, usize),
    length: Duration,
) -> Vec<f64> {
    let address: SocketAddr = address.parse().expect("an address");
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut callers = JoinSet::new();
        let end = Instant::now() + length;
        for connection in 0..connections {
            let socket = TcpStream::connect(address).await.expect("the server listens");
            socket.set_nodelay(true).expect("a TCP socket");
            let (sender, driver) =
                h2::client::Builder::new().handshake(socket).await.expect("the server speaks HTTP/2");
            tokio::spawn(driver);
            for caller in (connection..in_flight).step_by(connections) {
                let uri = format!("http://{address}{path}");
                let call = call_until(end, sender.clone(), uri, Arc::clone(bodies), (caller, in_flight));
                callers.spawn(call);
            }
        }
        callers.join_all().await.into_iter().flatten().collect()
    })
}

async fn call_until(
    end: Instant,
    mut sender: h2::client::SendRequest<Bytes>,
    uri: String,
    bodies: Arc<Vec<Bytes>>,
    (first, step): (usize, usize),
) -> Vec<f64> {
    let mut times = Vec::new();
    let mut turn = first;
    while Instant::now() < end {
        let began = Instant::now();
        let request = Request::post(uri.as_str())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        sender = sender.ready().await.expect("the connection lives");
        let (response, mut stream) = sender.send_request(request, false).expect("a stream");
        stream.send_data(bodies[turn].clone(), true).expect("the request is sent");
        let mut body = response.await.expect("an answer").into_body();
        while let Some(data) = body.data().await {
            let length = data.expect("an answer").len();
            body.flow_control().release_capacity(length).expect("flow control");
        }
        let trailers = body.trailers().await.expect("trailers").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0", "the server fails calls");
        times.push(began.elapsed().as_secs_f64() * 1e6);
        turn = if turn + step < bodies.len() { turn + step } else { first };
    }
    times
}
