//! A browser's half of HTTP: cookies, forms, uploads, redirects; one connection a request, no retries.
//!
//! The client talks to one server (a pod or the balancer) and always asks for the site's one host name, so that
//! WordPress sees the same site whichever server is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Request, header};

const REDIRECTS_MAX: u32 = 6;
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
const BOUNDARY: &str = "----manyfs-7c1d0f52b9e84a63";

/// One visitor of one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    server: SocketAddr,
    host: String,
    cookies: BTreeMap<String, String>,
}

/// An answer whose body came whole.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) content_length: Option<u64>,
    /// Which pod answered.
    pub(crate) pod: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// No whole answer: refused, cut off, body shorter than announced, too late.
#[derive(Debug)]
pub(crate) struct Broken(pub String);

/// What a request carries.
#[derive(Debug)]
pub(crate) enum Body {
    None,
    Form(Vec<(String, String)>),
    Multipart(Vec<Part>),
}

/// One field of an upload form.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) file: Option<(String, &'static str)>,
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    /// `limit` bounds one request from connect to the body's last byte.
    pub(crate) fn new(server: SocketAddr, host: &str, limit: Duration) -> Self {
        let agent = Agent::new_with_config(
            Agent::config_builder()
                .timeout_global(Some(limit))
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(None)
                // A connection of its own for each request: a kept one that the server closes would look like a failure.
                .max_idle_connections(0)
                .max_idle_connections_per_host(0)
                .build(),
        );
        Self { agent, server, host: host.to_owned(), cookies: BTreeMap::new() }
    }

    /// The same visitor, cookies included, at another server.
    pub(crate) fn at(&self, server: SocketAddr) -> Self {
        Self { server, ..self.clone() }
    }

    /// One request, no redirect followed.
    pub(crate) fn get(&mut self, path: &str) -> Result<Response, Broken> {
        self.send("GET", path, &[], Body::None)
    }

    pub(crate) fn post(&mut self, path: &str, headers: &[(&str, &str)], body: Body) -> Result<Response, Broken> {
        self.send("POST", path, headers, body)
    }

    /// As a browser: follows redirects, on this same server.
    pub(crate) fn browse(&mut self, path: &str) -> Result<Response, Broken> {
        let response = self.get(path)?;
        self.follow(path, response)
    }

    /// As a browser: posts, then follows redirects.
    pub(crate) fn submit(&mut self, path: &str, body: Body) -> Result<Response, Broken> {
        let response = self.post(path, &[], body)?;
        self.follow(path, response)
    }

    /// Path and query of a URL of this site.
    pub(crate) fn path_of(&self, url: &str) -> String {
        let prefix = format!("http://{}", self.host);
        url.strip_prefix(&prefix).unwrap_or(url).to_owned()
    }

    fn follow(&mut self, path: &str, response: Response) -> Result<Response, Broken> {
        let mut path = path.to_owned();
        let mut response = response;
        for _ in 0..REDIRECTS_MAX {
            let Some(location) = response.location.clone().filter(|_| (300..400).contains(&response.status)) else {
                return Ok(response);
            };
            path = resolve(&path, &self.path_of(&location));
            response = self.get(&path)?;
        }
        Err(Broken(format!("more than {REDIRECTS_MAX} redirects, last to {path}")))
    }

    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Result<Response, Broken> {
        assert!(path.starts_with('/'), "'{path}' is not a path of this site");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server))
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, "manyfs-test");
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let broken = |error: &dyn fmt::Display| Broken(format!("{method} {path}: {error}"));
        let answer = match body {
            Body::None => self.agent.run(request.body(()).map_err(|error| broken(&error))?),
            Body::Form(fields) => {
                let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                self.agent.run(request.body(form(&fields)).map_err(|error| broken(&error))?)
            }
            Body::Multipart(parts) => {
                let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
                let request = request.header(header::CONTENT_TYPE, content_type);
                self.agent.run(request.body(multipart(&parts)).map_err(|error| broken(&error))?)
            }
        };
        let mut answer = answer.map_err(|error| broken(&error))?;
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.insert(name.trim().to_owned(), value.to_owned());
            }
        }
        let text = |name: header::HeaderName| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
        };
        let location = text(header::LOCATION);
        let content_length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let pod = text(header::HeaderName::from_static("x-pod"));
        let status = answer.status().as_u16();
        let body =
            answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec().map_err(|error| broken(&error))?;
        // The library refuses a short body itself; this holds should it ever stop doing so.
        if let Some(length) = content_length
            && length != body.len() as u64
        {
            return Err(broken(&format!("{} bytes of {length} announced", body.len())));
        }
        Ok(Response { status, location, content_length, pod, body })
    }
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Part {
    pub(crate) fn field(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), file: None, bytes: value.as_bytes().to_vec() }
    }

    pub(crate) fn file(name: &str, file_name: &str, content_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), file: Some((file_name.to_owned(), content_type)), bytes }
    }
}

/// Fields of a form from literals.
pub(crate) fn fields(pairs: &[(&str, &str)]) -> Body {
    Body::Form(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn form(fields: &[(String, String)]) -> Vec<u8> {
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&").into_bytes()
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn multipart(parts: &[Part]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{}\"", part.name).as_bytes(),
        );
        if let Some((file_name, content_type)) = &part.file {
            body.extend_from_slice(format!("; filename=\"{file_name}\"\r\nContent-Type: {content_type}").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(&part.bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// A redirect's target seen from the page that sent it.
fn resolve(page: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let page = page.split('?').next().unwrap_or("/");
    let folder = &page[..=page.rfind('/').unwrap_or(0)];
    format!("{folder}{target}")
}
