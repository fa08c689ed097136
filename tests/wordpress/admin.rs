//! The site's administrator in a browser: installs, logs in, uploads, presses the buttons of wp-admin.
//!
//! Nonces come from the pages that carry them, as in a browser; nothing here knows how WordPress makes them.

use super::http::{Body, Client, Part, Response, fields};
use super::media::Media;
use std::net::SocketAddr;

const USER: &str = "admin";
const PASSWORD: &str = "correct-horse-battery-staple";

/// A logged-in administrator at one server.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    client: Client,
    rest_nonce: String,
}

impl Admin {
    /// Runs WordPress's installer and logs in.
    pub(crate) fn install(mut client: Client) -> Self {
        let form = page(&mut client, "/wp-admin/install.php");
        assert!(form.contains("weblog_title"), "WordPress's installer shows no form:\n{}", excerpt(&form));
        let answer = client.submit(
            "/wp-admin/install.php?step=2",
            fields(&[
                ("weblog_title", "Two pods, one wp-content"),
                ("user_name", USER),
                ("admin_password", PASSWORD),
                ("admin_password2", PASSWORD),
                ("pw_weak", "1"),
                ("admin_email", "admin@example.invalid"),
                ("blog_public", "0"),
                ("language", ""),
            ]),
        );
        let answer = whole("the installer's second step", answer).text();
        assert!(answer.contains("Success!"), "WordPress was not installed:\n{}", excerpt(&answer));
        Self::log_in(client)
    }

    fn log_in(mut client: Client) -> Self {
        page(&mut client, "/wp-login.php");
        let answer = client.submit(
            "/wp-login.php",
            fields(&[("log", USER), ("pwd", PASSWORD), ("wp-submit", "Log In"), ("testcookie", "1")]),
        );
        let answer = whole("the login", answer).text();
        assert!(answer.contains("wpadminbar"), "the login did not lead to wp-admin:\n{}", excerpt(&answer));
        let rest_nonce = page(&mut client, "/wp-admin/admin-ajax.php?action=rest-nonce");
        assert_eq!(rest_nonce.len(), 10, "not a nonce: {}", excerpt(&rest_nonce));
        Self { client, rest_nonce }
    }

    /// The same administrator, logged in with the same cookies, at another server.
    pub(crate) fn at(&self, server: SocketAddr) -> Self {
        Self { client: self.client.at(server), rest_nonce: self.rest_nonce.clone() }
    }

    /// Uploads an image into the media library; WordPress makes its sizes before it answers.
    pub(crate) fn upload(
        &mut self,
        file_name: &str,
        content_type: &'static str,
        bytes: Vec<u8>,
    ) -> Result<(Media, Response), String> {
        let parts = vec![Part::file("file", file_name, content_type, bytes)];
        let headers = [("X-WP-Nonce", self.rest_nonce.as_str())];
        let answer = self
            .client
            .post("/index.php?rest_route=/wp/v2/media", &headers, Body::Multipart(parts))
            .map_err(|broken| broken.to_string())?;
        if answer.status != 201 {
            return Err(format!("upload of {file_name}: status {}: {}", answer.status, excerpt(&answer.text())));
        }
        let media = Media::of_answer(&answer.body, |url| self.client.path_of(url))
            .map_err(|reason| format!("upload of {file_name}: {reason}: {}", excerpt(&answer.text())))?;
        Ok((media, answer))
    }

    /// Deletes a medium with all its files, past the trash.
    pub(crate) fn delete(&mut self, media: &Media) {
        let path = format!("/index.php?rest_route=/wp/v2/media/{}&force=true", media.id);
        let headers = [("X-WP-Nonce", self.rest_nonce.as_str()), ("X-HTTP-Method-Override", "DELETE")];
        let answer = self.client.post(&path, &headers, Body::None);
        let answer = whole("the deletion of a medium", answer).text();
        assert!(answer.contains("\"deleted\":true"), "medium {} was not deleted:\n{}", media.id, excerpt(&answer));
    }

    /// Uploads a plugin's zip on "Add plugins" and returns the page that answers.
    pub(crate) fn upload_plugin(&mut self, zip: &[u8]) -> String {
        self.upload_package("plugin", "/wp-admin/plugin-install.php?tab=upload", "pluginzip", zip)
    }

    /// Uploads a theme's zip on "Add themes" and returns the page that answers.
    pub(crate) fn upload_theme(&mut self, zip: &[u8]) -> String {
        self.upload_package("theme", "/wp-admin/theme-install.php?upload", "themezip", zip)
    }

    /// Presses the button of `answer` whose target contains all of `needles`, and returns the page that follows.
    pub(crate) fn press(&mut self, answer: &str, needles: &[&str]) -> String {
        let target = link(answer, needles)
            .unwrap_or_else(|| panic!("no button with {needles:?} on the page:\n{}", excerpt(answer)));
        let target = self.client.path_of(&target);
        let target = if target.starts_with('/') { target } else { format!("/wp-admin/{target}") };
        page(&mut self.client, &target)
    }

    /// Makes an installed theme the site's.
    pub(crate) fn switch_theme(&mut self, theme: &str) {
        let themes = page(&mut self.client, "/wp-admin/themes.php");
        let answer = self.press(&themes, &["action=activate", &format!("stylesheet={theme}&")]);
        assert!(answer.contains("New theme activated"), "the theme was not switched:\n{}", excerpt(&answer));
    }

    fn upload_package(&mut self, kind: &str, form: &str, field: &str, zip: &[u8]) -> String {
        let form = page(&mut self.client, form);
        let action = format!("action=upload-{kind}");
        let start = form.find(&action).unwrap_or_else(|| panic!("no upload form for a {kind}:\n{}", excerpt(&form)));
        let nonce =
            between(&form[start..], "name=\"_wpnonce\" value=\"", "\"").expect("wp-admin's forms carry a nonce");
        let parts = vec![
            Part::field("_wpnonce", nonce),
            Part::file(field, &format!("manyfs-{kind}.zip"), "application/zip", zip.to_vec()),
            Part::field(&format!("install-{kind}-submit"), "Install Now"),
        ];
        let answer = self.client.submit(&format!("/wp-admin/update.php?{action}"), Body::Multipart(parts));
        whole(&format!("the upload of a {kind}"), answer).text()
    }
}

/// A page that must come, as text.
///
/// # Panics
/// When it does not come whole or with another status than 200.
fn page(client: &mut Client, path: &str) -> String {
    whole(path, client.browse(path)).text()
}

fn whole(what: &str, answer: Result<Response, super::http::Broken>) -> Response {
    let answer = answer.unwrap_or_else(|broken| panic!("{what}: {broken}"));
    assert_eq!(answer.status, 200, "{what}: {}", excerpt(&answer.text()));
    answer
}

/// First link of a page whose target, its HTML entities decoded, contains all of `needles`.
fn link(html: &str, needles: &[&str]) -> Option<String> {
    html.split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|target| target.replace("&#038;", "&").replace("&amp;", "&"))
        .find(|target| needles.iter().all(|needle| target.contains(needle)))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// What a person would read of a page, for messages.
pub(crate) fn excerpt(html: &str) -> String {
    let body = html.split_once("id=\"wpbody-content\"").map_or(html, |(_, body)| body);
    let mut text = String::new();
    let mut inside_tag = false;
    for character in body.chars() {
        match character {
            '<' => inside_tag = true,
            '>' => inside_tag = false,
            _ if inside_tag => {}
            character if character.is_whitespace() && text.ends_with([' ', '\n']) => {}
            character => text.push(character),
        }
    }
    text.chars().take(1500).collect()
}
