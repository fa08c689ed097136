//! Metrics and health over HTTP (port 7442): what scrapers and probes ask. No names of files, volumes or hosts are
//! given here, as nobody is asked who they are.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;

/// Whether the process can do its work now; a sentence where it cannot.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Answers `/metrics`, `/healthz` (the process runs) and `/readyz` (it can do its work) until `stop` ends.
///
/// # Errors
/// What ended the listener.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(async move || metrics(&registry)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(readiness())));
    axum::serve(listener, router).with_graceful_shutdown(stop).await
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
        let server = tokio::spawn(serve(listener, Arc::new(registry), readiness, async {
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
        server.await.expect("no panic").expect("ends in order");
    }
}
