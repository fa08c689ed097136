//! Metrics and health over HTTP (port 7442): what scrapers and probes ask. No names of files, volumes or hosts are
//! given here, as nobody is asked who they are.

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    admission::{Admission, Crowd, GivesWay, Place},
    limits::CONNECTIONS_HTTP_MAX,
};

/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last: one request is answered on each, and some read slowly.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// What is waited for when no connection can be taken: descriptors come back as others end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whether the process can do its work now; a sentence where it cannot.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Answers `/metrics`, `/healthz` (the process runs) and `/readyz` (it can do its work) until `stop` ends, at most
/// `connections_max` at a time: nobody is asked who they are, so nobody is left much room or time.
pub async fn serve(
    listener: TcpListener,
    connections_max: usize,
    registry: Arc<Registry>,
    readiness: Readiness,
    stop: impl Future<Output = ()> + Send,
) {
    let router = Router::new()
        .route("/metrics", get(async move || metrics(&registry)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(readiness())));
    let service = TowerToHyperService::new(router);
    let crowd: Crowd<IpAddr> = Crowd::new(connections_max.min(CONNECTIONS_HTTP_MAX), GivesWay::Oldest);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("accepting a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Admission::Admitted { place, .. } = crowd.admit(address.ip()) {
            tokio::spawn(answer(stream, place, service.clone()));
        }
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, mut place: Place<IpAddr>, service: TowerToHyperService<Router>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Whoever asked may have gone.
        _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
        _ = place.gone() => {}
    }
}

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let mut page = String::new();
    match text::encode(&mut page, registry) {
        Ok(()) => {
            (StatusCode::OK, [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("metrics cannot be written: {error}\n"),
        ),
    }
}

fn ready(readiness: Result<(), String>) -> (StatusCode, String) {
    match readiness {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(sentence) => (StatusCode::SERVICE_UNAVAILABLE, format!("{sentence}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use prometheus_client::metrics::counter::Counter;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn probes_and_scrapers_are_answered() {
        let mut registry = crate::telemetry::registry();
        let counter = Counter::<u64>::default();
        registry.register("apples", "Apples eaten", counter.clone());
        counter.inc_by(3);
        let is_ready = Arc::new(AtomicBool::new(false));
        let readiness: Readiness = {
            let is_ready = is_ready.clone();
            Arc::new(move || match is_ready.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("no leader is known".to_owned()),
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, 8, Arc::new(registry), readiness, async {
            let _ = stopped.await;
        }));

        let page = ask(address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("manyfs_apples_total 3"), "{page}");
        assert!(page.contains("manyfs_process_resident_bytes"), "{page}");
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let page = ask(address, "/readyz").await;
        assert!(page.starts_with("HTTP/1.1 503") && page.contains("no leader is known"), "{page}");
        is_ready.store(true, Ordering::Relaxed);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404"));

        drop(stop);
        server.await.expect("no panic");
    }

    /// 234 idle connections took all descriptors of a process, and the store ended.
    #[tokio::test]
    async fn connections_that_say_nothing_make_room_for_those_that_ask() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let registry = Arc::new(crate::telemetry::registry());
        tokio::spawn(serve(listener, 8, registry, Arc::new(|| Ok(())), std::future::pending()));
        let mut idle = Vec::new();
        for number in 0..100 {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await.expect("sent");
            }
            idle.push(stream);
        }
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let mut buffer = [0; 1];
        for stream in &mut idle[..92] {
            assert_eq!(stream.read(&mut buffer).await.unwrap_or(0), 0, "closed to make room");
        }
    }
}
