//! Patterns of paths: `*` within a folder's name, `**` across folders, `?` for one character.

/// Whether `path` fits `pattern`. As with the hub's own tools, a pattern without `**` that ends in
/// `/*` takes one folder only.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    fits(pattern.as_bytes(), path.as_bytes())
}

fn fits(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', b'/', rest @ ..] => {
            fits(rest, path)
                || (0..path.len()).any(|i| path[i] == b'/' && fits(rest, &path[i + 1..]))
        }
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|i| fits(rest, &path[i..])),
        [b'*', rest @ ..] => {
            let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
            (0..=end).any(|i| fits(rest, &path[i..]))
        }
        [b'?', rest @ ..] => path.first().is_some_and(|b| *b != b'/') && fits(rest, &path[1..]),
        [first, rest @ ..] => path.first() == Some(first) && fits(rest, &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stay_in_their_folder_and_double_stars_do_not() {
        let fits = [
            ("*.json", "a.json"),
            ("prior/*", "prior/model.bin"),
            ("llm/**", "llm/tokenizer/tokenizer.model"),
            ("llm/**", "llm/config.json"),
            ("**/config.json", "unet/config.json"),
            ("**/config.json", "config.json"),
            ("tokenizer*/*", "tokenizer_2/merges.txt"),
            ("a?c", "abc"),
        ];
        for (pattern, path) in fits {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        let others = [
            ("*.json", "a/b.json"),
            ("prior/*", "prior/a/b"),
            ("*.json", "a.jsonl"),
            ("a?c", "a/c"),
            ("", "a"),
        ];
        for (pattern, path) in others {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
