//! Takes the compression off a stream.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

/// The largest zstd window that is accepted, as a power of two: 8 MiB. Levels up to 19 need no more; a stream that asks for
/// more would break the bound on memory, and is refused by name.
pub const WINDOW_LOG: u32 = 23;

/// How much of the encoded stream is asked for at once.
const INPUT_BYTES: usize = 128 * 1024;

/// A decoded stream. An encoded stream that ends early is `UnexpectedEof`; one that goes on after its end is an error too.
pub enum Decoded<R: Read> {
    /// As it came.
    Plain(R),
    /// `gzip`, as many members as there are.
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    /// `zstd`, as many frames as there are.
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decoded<R> {
    /// The stream as it is.
    pub fn plain(stream: R) -> Self {
        Decoded::Plain(stream)
    }

    /// A gzip stream.
    pub fn gzip(stream: R) -> Self {
        Decoded::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT_BYTES, stream))))
    }

    /// A zstd stream.
    ///
    /// # Errors
    /// The decoder cannot be made.
    pub fn zstd(stream: R) -> io::Result<Self> {
        let input = BufReader::with_capacity(INPUT_BYTES, stream);
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Decoded::Zstd(Box::new(decoder)))
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoded::Plain(stream) => stream.read(buffer),
            Decoded::Gzip(stream) => stream.read(buffer),
            Decoded::Zstd(stream) => stream.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text() -> Vec<u8> {
        (0..200_000_u32).flat_map(|number| format!("{number}\t{}\n", number * 7919 % 10007).into_bytes()).collect()
    }

    fn zipped(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(encoded: &[u8], zstd: bool) -> io::Result<Vec<u8>> {
        let mut decoded = if zstd { Decoded::zstd(encoded)? } else { Decoded::gzip(encoded) };
        let mut all = Vec::new();
        decoded.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn what_was_encoded_comes_back_also_from_several_frames() {
        let text = text();
        for (encoded, zstd) in [(zstd::encode_all(&text[..], 1).unwrap(), true), (zipped(&text), false)] {
            assert!(read(&encoded, zstd).unwrap() == text);
            let twice = [encoded.clone(), encoded].concat();
            assert_eq!(read(&twice, zstd).unwrap().len(), 2 * text.len());
        }
    }

    #[test]
    fn an_encoded_stream_that_ends_early_or_goes_on_is_an_error() {
        let text = text();
        for (encoded, zstd) in [(zstd::encode_all(&text[..], 1).unwrap(), true), (zipped(&text), false)] {
            for cut in [1, encoded.len() / 2, encoded.len() - 1] {
                assert!(read(&encoded[..cut], zstd).is_err(), "cut to {cut}, zstd {zstd}");
            }
            let longer = [&encoded[..], b"and so on, without a header of its own"].concat();
            assert!(read(&longer, zstd).is_err(), "zstd {zstd}");
        }
    }

    #[test]
    fn a_window_that_would_not_fit_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(WINDOW_LOG + 2).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&text()).unwrap();
        assert!(read(&encoder.finish().unwrap(), true).is_err());
    }
}
