//! Pictures: made by PHP's GD, uploaded as media, and what WordPress makes of them.

use super::http::{Client, Response};
use super::process::run;
use super::requirements::Requirements;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const MAKE_LIMIT: Duration = Duration::from_secs(60);

/// Draws a picture that no two seeds share and that does not compress to nothing.
const DRAW: &str = r#"
[, $format, $width, $height, $seed, $path] = $argv;
mt_srand((int) $seed);
$image = imagecreatetruecolor((int) $width, (int) $height);
for ($i = 0; $i < 300; $i++) {
    $colour = imagecolorallocate($image, mt_rand(0, 255), mt_rand(0, 255), mt_rand(0, 255));
    imagefilledellipse($image, mt_rand(0, $width), mt_rand(0, $height), mt_rand(5, $width >> 2), mt_rand(5, $height >> 2), $colour);
}
for ($y = 0; $y < $height >> 1; $y++) {
    for ($x = 0; $x < $width >> 1; $x++) {
        imagesetpixel($image, $x, $y, mt_rand(0, 0xffffff));
    }
}
$format === 'png' ? imagepng($image, $path, 3) : imagejpeg($image, $path, 88);
"#;

/// A picture ready to be uploaded.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) file_name: String,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// An uploaded medium and every file of it.
#[derive(Debug, Clone)]
pub(crate) struct Media {
    pub(crate) id: u64,
    pub(crate) files: Vec<MediaFile>,
}

#[derive(Debug, Clone)]
pub(crate) struct MediaFile {
    /// WordPress's name of the size: thumbnail, medium, …, full; `original` for the picture as it was sent.
    pub(crate) size: String,
    pub(crate) path: String,
    /// Pixels; none for `original`, whose answer does not say them.
    pub(crate) dimensions: Option<(u32, u32)>,
}

impl Picture {
    /// Draws `width` by `height` pixels; `file_name` ends in .jpg or .png.
    pub(crate) fn draw(
        requirements: &Requirements,
        dir: &Path,
        file_name: &str,
        width: u32,
        height: u32,
        seed: u32,
    ) -> Self {
        let path = dir.join(file_name);
        let (format, content_type) =
            if file_name.ends_with(".png") { ("png", "image/png") } else { ("jpeg", "image/jpeg") };
        run(
            [
                requirements.php.as_os_str().to_owned(),
                "-r".into(),
                DRAW.into(),
                "--".into(),
                format.into(),
                width.to_string().into(),
                height.to_string().into(),
                seed.to_string().into(),
                path.as_os_str().to_owned(),
            ],
            MAKE_LIMIT,
        );
        let bytes = std::fs::read(&path).expect("PHP has written the picture");
        assert_eq!(dimensions(&bytes), Some((width, height)), "PHP drew something else");
        Self { file_name: file_name.to_owned(), content_type, bytes }
    }
}

impl Media {
    /// Reads WordPress's answer to an upload.
    pub(crate) fn of_answer(json: &[u8], path_of: impl Fn(&str) -> String) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Answer {
            id: u64,
            source_url: String,
            media_details: Details,
        }
        #[derive(Deserialize)]
        struct Details {
            sizes: BTreeMap<String, Size>,
            original_image: Option<String>,
        }
        #[derive(Deserialize)]
        struct Size {
            source_url: String,
            width: u32,
            height: u32,
        }
        let answer: Answer = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut files: Vec<MediaFile> = answer
            .media_details
            .sizes
            .into_iter()
            .map(|(size, file)| MediaFile {
                size,
                path: path_of(&file.source_url),
                dimensions: Some((file.width, file.height)),
            })
            .collect();
        if let Some(original) = answer.media_details.original_image {
            let full = path_of(&answer.source_url);
            let folder = full.rsplit_once('/').map_or("", |(folder, _)| folder);
            files.push(MediaFile {
                size: "original".to_owned(),
                path: format!("{folder}/{original}"),
                dimensions: None,
            });
        }
        Ok(Self { id: answer.id, files })
    }
}

impl MediaFile {
    /// Fetches this file; it must come whole, as a picture of its announced size.
    pub(crate) fn fetch(&self, client: &mut Client) -> Vec<u8> {
        let answer = self.ask(client);
        assert_eq!(answer.status, 200, "{} ({}) at pod {:?}", self.path, self.size, answer.pod);
        assert_eq!(answer.content_length, Some(answer.body.len() as u64), "{} at pod {:?}", self.path, answer.pod);
        let found = dimensions(&answer.body);
        assert!(found.is_some(), "{} at pod {:?} is not a picture", self.path, answer.pod);
        if self.dimensions.is_some() {
            assert_eq!(found, self.dimensions, "{} ({}) at pod {:?}", self.path, self.size, answer.pod);
        }
        answer.body
    }

    /// Asks for this file, which must be gone.
    pub(crate) fn assert_missing(&self, client: &mut Client) {
        let answer = self.ask(client);
        assert_eq!(answer.status, 404, "{} should not exist at pod {:?}", self.path, answer.pod);
    }

    fn ask(&self, client: &mut Client) -> Response {
        client.get(&self.path).unwrap_or_else(|broken| panic!("{broken}"))
    }
}

/// Width and height from the header of a PNG (section 11.2.2, IHDR) or a JPEG (ITU T.81 B.2.2, SOF).
pub(crate) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize, length: usize| -> Option<u32> {
        bytes.get(at..at + length).map(|field| field.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        // A whole file ends with its IEND chunk.
        return bytes.ends_with(b"IEND\xaeB`\x82").then_some((number(16, 4)?, number(20, 4)?));
    }
    if !bytes.starts_with(b"\xff\xd8") || !bytes.ends_with(b"\xff\xd9") {
        return None;
    }
    let mut at = 2;
    loop {
        let marker = number(at, 2)?;
        if matches!(marker, 0xffc0..=0xffc2) {
            return Some((number(at + 7, 2)?, number(at + 5, 2)?));
        }
        at += 2 + number(at + 2, 2)? as usize;
    }
}
