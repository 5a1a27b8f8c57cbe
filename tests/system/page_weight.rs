//! Tests how much a browser loads before a page works: the files that the page names, and those that these name.

use std::collections::BTreeSet;

use crate::harness::{http, node::Node};

/// Maximum bytes of a page and its files, compressed by gzip. A phone with a slow network (1.6 Mbit/s) loads them in
/// about 300 ms.
const PAGE_BYTES: usize = 60 * 1024;

/// Each page, and its number of requests. On a slow network a request more can cost a round trip: the browser finds a
/// module's imports only when it has the module.
const PAGES: [(&str, usize); 2] = [("/", 13), ("/dashboard", 11)];

#[test]
fn a_page_is_small_and_needs_few_requests() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    for (page, requests) in PAGES {
        let files = loaded(&node.address, page);
        let sizes = files.iter().map(|file| {
            let bytes = http::gzipped_bytes(&node.address, file).unwrap();
            (bytes, file.as_str())
        });
        let mut sizes: Vec<_> = sizes.collect();
        sizes.sort();
        let sum: usize = sizes.iter().map(|(bytes, _)| bytes).sum();
        println!("{page}: {sum} bytes in {} requests", sizes.len());
        assert_eq!(sizes.len(), requests, "{page}: {sizes:#?}");
        assert!(sum <= PAGE_BYTES, "{page}: {sum} bytes: {sizes:#?}");
    }
}

/// Returns the paths that a browser requests to show a page, without the room's data.
fn loaded(address: &str, page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![page.to_owned()];
    while let Some(path) = waiting.pop() {
        if !found.insert(path.clone()) {
            continue;
        }
        let file = http::get(address, &path).unwrap();
        assert_eq!(file.status, 200, "{path}");
        let names = match path.rsplit_once('.') {
            Some((_, "js")) => imports(&file.body),
            Some((_, "css")) => quoted_after(&file.body, "url("),
            Some(_) => Vec::new(),
            None => links(&file.body),
        };
        // All files of the pages are in one folder, so a file is named by a path (`/` or `./`). Other names are data.
        let local = names
            .into_iter()
            .map(|name| name.trim_start_matches('.'))
            .filter(|name| name.starts_with('/'));
        waiting.extend(local.map(str::to_owned));
    }
    found
}

/// Returns the modules that a module imports statically. Comments name modules, too, which are not loaded.
fn imports(module: &str) -> Vec<&str> {
    let code = module
        .lines()
        .filter(|line| !line.trim_start().starts_with(['*', '/']));
    code.flat_map(|line| {
        let named = quoted_after(line, "from ");
        named.into_iter().chain(quoted_after(line, "import "))
    })
    .collect()
}

/// Returns the files of the elements that load one. The address of an `a` is not loaded.
fn links(html: &str) -> Vec<&str> {
    html.split('<')
        .filter(|tag| !tag.starts_with("a "))
        .flat_map(|tag| {
            let sources = quoted_after(tag, " src=");
            sources.into_iter().chain(quoted_after(tag, " href="))
        })
        .collect()
}

/// Returns each text in double quotes that follows directly on `before`.
fn quoted_after<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    text.split(before)
        .skip(1)
        .filter_map(|rest| rest.strip_prefix('"')?.split('"').next())
        .collect()
}
