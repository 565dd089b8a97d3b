//! Just enough of Rust's lexical structure to tell code from comments and literals.
//!
//! [`mask`] splits a source into two texts of the same shape: `code`, where comments and the contents of literals are
//! blank, and `comments`, where everything else is. Lines and columns stay what they were. [`tokens`] cuts the code
//! into words and punctuation.

/// The two texts of one source.
pub struct Masked {
    pub code: String,
    pub comments: String,
}

/// A word, `::`, a lifetime, or one punctuation character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// Splits a source into code and comments.
pub fn mask(text: &str) -> Masked {
    let mut lexer = Lexer { source: text.as_bytes(), at: 0, code: Vec::new(), comments: Vec::new() };
    while lexer.at < lexer.source.len() {
        lexer.step();
    }
    let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Masked { code: text_of(lexer.code), comments: text_of(lexer.comments) }
}

/// Cuts masked code into tokens.
pub fn tokens(code: &str) -> Vec<Token> {
    let bytes = code.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        at += match bytes[at] {
            b'\n' => {
                line += 1;
                1
            }
            byte if byte.is_ascii_whitespace() => 1,
            byte if is_word(byte) => word_length(&bytes[at..]),
            b'\'' => 1 + word_length(&bytes[at + 1..]),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            _ => 1,
        };
        let text = code.get(start..at).unwrap_or("?");
        if !text.trim().is_empty() {
            found.push(Token { text: text.to_owned(), line });
        }
    }
    found
}

struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let rest = &self.source[self.at..];
        match rest[0] {
            b'/' if rest.starts_with(b"//") => {
                let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                self.comment(length);
            }
            b'/' if rest.starts_with(b"/*") => self.comment(block_comment_length(rest)),
            b'"' => self.string(0, quoted_length(rest)),
            b'\'' => match char_length(rest) {
                Some(length) => self.blank(length),
                None => self.keep(1),
            },
            byte if is_word(byte) => self.word(),
            _ => self.keep(1),
        }
    }

    /// A word, unless it is the prefix of a literal.
    fn word(&mut self) {
        let rest = &self.source[self.at..];
        let length = word_length(rest);
        let (word, after) = rest.split_at(length);
        let is_raw = matches!(word, b"r" | b"br" | b"cr");
        if is_raw && let Some(literal) = raw_length(after) {
            self.string(length, length + literal);
        } else if matches!(word, b"b" | b"c") && after.first() == Some(&b'"') {
            self.string(length, length + quoted_length(after));
        } else if word == b"b"
            && after.first() == Some(&b'\'')
            && let Some(literal) = char_length(after)
        {
            self.blank(length + literal);
        } else {
            self.keep(length);
        }
    }

    fn keep(&mut self, length: usize) {
        self.copy(length, |byte| (byte, b' '));
    }

    fn comment(&mut self, length: usize) {
        self.copy(length, |byte| (b' ', byte));
    }

    fn blank(&mut self, length: usize) {
        self.copy(length, |_| (b' ', b' '));
    }

    /// A string literal: its two ends stay visible as `"`.
    fn string(&mut self, prefix: usize, length: usize) {
        let start = self.code.len();
        self.blank(length);
        self.code[start + prefix] = b'"';
        self.code[start + length - 1] = b'"';
    }

    fn copy(&mut self, length: usize, split: impl Fn(u8) -> (u8, u8)) {
        let end = (self.at + length).min(self.source.len());
        for byte in &self.source[self.at..end] {
            let (code, comment) = if *byte == b'\n' { (b'\n', b'\n') } else { split(*byte) };
            self.code.push(code);
            self.comments.push(comment);
        }
        self.at = end;
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

fn word_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_word(*byte)).unwrap_or(bytes.len())
}

/// The length of a `/* … */` comment, which may hold others.
fn block_comment_length(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The length of a `"…"` literal, escapes and both quotes included.
fn quoted_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of `#"…"#` after an `r`; `None` for a raw identifier.
fn raw_length(bytes: &[u8]) -> Option<usize> {
    let hashes = bytes.iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(hashes + 1, b'#');
    let body = &bytes[hashes + 1..];
    let close = body.windows(end.len()).position(|window| window == end);
    Some(close.map_or(bytes.len(), |close| hashes + 1 + close + end.len()))
}

/// The length of a `'…'` literal; `None` for a lifetime.
fn char_length(bytes: &[u8]) -> Option<usize> {
    if bytes.get(1) == Some(&b'\\') {
        let close = bytes.iter().skip(3).position(|byte| *byte == b'\'')?;
        return Some(close + 4);
    }
    let text = std::str::from_utf8(&bytes[1..bytes.len().min(5)])
        .or_else(|error| std::str::from_utf8(&bytes[1..1 + error.valid_up_to()]));
    let width = text.ok()?.chars().next()?.len_utf8();
    (bytes.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

#[cfg(test)]
mod tests {
    use super::{mask, tokens};

    fn check(source: &str, expected: &str) {
        let words: Vec<String> = tokens(&mask(source).code).into_iter().map(|token| token.text).collect();
        assert_eq!(words.join(" "), expected, "source: {source}");
    }

    #[test]
    fn comments_are_not_code() {
        check("a // b\nc /* d /* e */ f */ g", "a c g");
        check("/// x.unwrap()\nfn f() {}", "fn f ( ) { }");
    }

    #[test]
    fn literals_keep_their_ends_only() {
        check(r#"f("a \" b", c)"#, r#"f ( " " , c )"#);
        check("f(r#\"a \" b\"#, c)", "f ( \" \" , c )");
        check("f(b\"x\", c\"y\")", "f ( \" \" , \" \" )");
        check("f(\"two\nlines\") g", "f ( \" \" ) g");
    }

    #[test]
    fn quotes_of_characters_and_lifetimes_differ() {
        check("f('\"', '\\'', 'x', b'\\n', '\\u{1F600}', 'é')", "f ( , , , , , )");
        check("fn f<'a>(x: &'a str) {}", "fn f < 'a > ( x : & 'a str ) { }");
    }

    #[test]
    fn raw_identifiers_and_paths_are_words() {
        check("r#type::new(br)", "r # type :: new ( br )");
    }

    #[test]
    fn lines_stay_where_they_were() {
        let found = tokens(&mask("a\n/* x\n y */ b\n\"s\nt\" c").code);
        let lines: Vec<(&str, usize)> = found.iter().map(|token| (token.text.as_str(), token.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 3), ("\"", 4), ("\"", 5), ("c", 5)]);
    }

    #[test]
    fn comments_are_kept_apart() {
        let comments = mask("let a = \"// no\"; // yes").comments;
        assert_eq!(comments.trim(), "// yes");
    }
}
