//! Two small themes: their pages say which theme they are and end with a mark, so that half a page shows.

use super::admin::excerpt;
use super::plugin::{END_MARK, pack};
use super::requirements::Requirements;
use std::path::Path;

const INDEX: &str = r#"<!DOCTYPE html>
<html <?php language_attributes(); ?>>
<head><meta charset="utf-8"><?php wp_head(); ?></head>
<body <?php body_class(); ?>>
<h1>@NAME@</h1>
<?php get_template_part('parts/posts'); wp_footer(); ?>
</body>
</html>
@END@"#;

const POSTS: &str = r#"<?php
while (have_posts()) {
    the_post();
    the_title('<h2>', '</h2>');
    the_content();
}
"#;

const FUNCTIONS: &str = r#"<?php
add_action('wp_enqueue_scripts', function () {
    wp_enqueue_style('@NAME@', get_stylesheet_uri());
});
"#;

/// A theme, known by its folder's name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    pub(crate) name: &'static str,
}

impl Theme {
    /// The theme that the site is installed with.
    pub(crate) const FIRST: Self = Self { name: "manyfs-first" };
    /// The theme that it is switched to.
    pub(crate) const SECOND: Self = Self { name: "manyfs-second" };

    /// Lays the theme out below `themes`.
    pub(crate) fn write(self, themes: &Path) {
        let root = themes.join(self.name);
        std::fs::create_dir_all(root.join("parts")).expect("the test's directory is writable");
        let files = [("index.php", INDEX), ("parts/posts.php", POSTS), ("functions.php", FUNCTIONS)];
        for (name, text) in files {
            let text = text.replace("@NAME@", self.name).replace("@END@", END_MARK);
            std::fs::write(root.join(name), text).expect("the test's directory is writable");
        }
        std::fs::write(root.join("style.css"), self.style()).expect("the test's directory is writable");
    }

    /// The theme as a zip, made in `dir`.
    pub(crate) fn zip(self, requirements: &Requirements, dir: &Path) -> Vec<u8> {
        let root = dir.join("theme");
        self.write(&root);
        pack(requirements, &root, self.name)
    }

    pub(crate) fn style(self) -> String {
        format!("/*\nTheme Name: {}\nVersion: 1.0.0\n*/\nh1 {{ font-weight: bold; }}\n", self.name)
    }

    pub(crate) fn style_path(self) -> String {
        format!("/wp-content/themes/{}/style.css", self.name)
    }

    /// Whether `page` is the whole front page in this theme; else what is wrong with it.
    pub(crate) fn check_front_page(self, page: &str) -> Result<(), String> {
        if !page.contains(&format!("<h1>{}</h1>", self.name)) {
            return Err(format!("the front page is not in the theme {}: {}", self.name, excerpt(page)));
        }
        if !page.trim_end().ends_with(END_MARK) {
            return Err("the front page lacks its end".to_owned());
        }
        Ok(())
    }
}
