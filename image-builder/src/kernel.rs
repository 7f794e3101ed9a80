//! Takes the uncompressed kernel out of a bzImage. Debian ships only the compressed form; started through its PVH entry
//! point, the uncompressed one spares the guest its slowest step: decompressing itself.

use crate::elf;
use std::io::Read;

/// Why a kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("the package holds no boot/vmlinuz-*")]
    NoImage,
    #[error("it is no x86 bzImage with a payload (boot protocol 2.08 or newer)")]
    NotBzImage,
    #[error(
        "its payload is compressed in a way that this program cannot read (it begins with {magic})"
    )]
    Compression { magic: String },
    #[error("its payload cannot be decompressed")]
    Decompress(#[source] std::io::Error),
    #[error("its payload is {actual} bytes long, but says it were {expected}")]
    Length { expected: u64, actual: u64 },
    #[error("its payload cannot be booted: {0}")]
    Elf(String),
    #[error("it was built without CONFIG_PVH: it has no PVH entry point")]
    NoPvh,
}

/// Kernels are some tens of MB.
const MAX_KERNEL_BYTES: u64 = 512 * 1024 * 1024;

/// The ELF file inside a bzImage. Offsets are those of Linux's Documentation/arch/x86/boot.rst.
pub(crate) fn uncompressed(bz_image: &[u8]) -> Result<Vec<u8>, KernelError> {
    let number = |offset: usize, length: usize| -> Result<u64, KernelError> {
        let bytes = bz_image.get(offset..offset + length);
        let bytes = bytes.ok_or(KernelError::NotBzImage)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let is_bz_image = bz_image.get(0x202..0x206) == Some(b"HdrS");
    if !is_bz_image || number(0x206, 2)? < 0x0208 {
        return Err(KernelError::NotBzImage);
    }
    let setup_sectors = match number(0x1f1, 1)? {
        0 => 4,
        sectors => sectors,
    };
    let start = (setup_sectors + 1) * 512 + number(0x248, 4)?;
    let end = start + number(0x24c, 4)?;
    let payload = bz_image
        .get(start as usize..end as usize)
        .ok_or(KernelError::NotBzImage)?;
    let kernel = decompress(payload)?;
    let facts = elf::facts(&kernel).map_err(KernelError::Elf)?;
    if !facts.has_pvh_entry {
        return Err(KernelError::NoPvh);
    }
    Ok(kernel)
}

/// The kernel's build appends the uncompressed length, 32 bits little-endian, to what these programs write.
fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let (data, length) = payload
        .split_last_chunk::<4>()
        .ok_or(KernelError::NotBzImage)?;
    let expected = u64::from(u32::from_le_bytes(*length));
    let kernel = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            read(zstd::Decoder::new(data).map(zstd::Decoder::single_frame))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(Ok(lzma_rust2::XzReader::new(data, false))),
        // gzip ends with this length by itself; it is part of the stream.
        [0x1f, 0x8b, ..] => read(Ok(flate2::read::GzDecoder::new(payload))),
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => {
            lz4_legacy(&rest[..rest.len() - 4], expected as usize)
        }
        _ => {
            return Err(KernelError::Compression {
                magic: hex::encode(&payload[..payload.len().min(6)]),
            });
        }
    };
    let kernel = kernel.map_err(KernelError::Decompress)?;
    if kernel.len() as u64 != expected {
        return Err(KernelError::Length {
            expected,
            actual: kernel.len() as u64,
        });
    }
    Ok(kernel)
}

fn read(decoder: std::io::Result<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decoder?.take(MAX_KERNEL_BYTES).read_to_end(&mut out)?;
    Ok(out)
}

/// `lz4 -l`: blocks of up to 8 MiB, each after its compressed length.
fn lz4_legacy(mut data: &[u8], expected: usize) -> std::io::Result<Vec<u8>> {
    let invalid = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    let mut out = Vec::with_capacity(expected.min(MAX_KERNEL_BYTES as usize));
    while let Some((length, rest)) = data.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() || out.len() > expected {
            return Err(invalid("an lz4 block is cut short".into()));
        }
        let (block, rest) = rest.split_at(length);
        let bytes = lz4_flex::block::decompress(block, 8 * 1024 * 1024)
            .map_err(|error| invalid(error.to_string()))?;
        out.extend_from_slice(&bytes);
        data = rest;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_elf::{bz_image, kernel_elf, with_length};

    #[test]
    fn every_compression_debian_has_used_is_read() {
        let kernel = kernel_elf(true);
        let zstd = with_length(zstd::encode_all(&kernel[..], 19).unwrap(), &kernel);
        assert_eq!(uncompressed(&bz_image(&zstd)).unwrap(), kernel);

        let mut xz =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        std::io::Write::write_all(&mut xz, &kernel).unwrap();
        let xz = with_length(xz.finish().unwrap(), &kernel);
        assert_eq!(uncompressed(&bz_image(&xz)).unwrap(), kernel);

        let block = lz4_flex::block::compress(&kernel);
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        lz4.extend_from_slice(&(block.len() as u32).to_le_bytes());
        lz4.extend_from_slice(&block);
        let lz4 = with_length(lz4, &kernel);
        assert_eq!(uncompressed(&bz_image(&lz4)).unwrap(), kernel);

        let mut gzip = Vec::new();
        flate2::read::GzEncoder::new(&kernel[..], flate2::Compression::best())
            .read_to_end(&mut gzip)
            .unwrap();
        assert_eq!(uncompressed(&bz_image(&gzip)).unwrap(), kernel);
    }

    #[track_caller]
    fn check_refused(image: &[u8], expected: &str) {
        let error = uncompressed(image).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        check_refused(b"", "no x86 bzImage");
        check_refused(&[0; 4096], "no x86 bzImage");
        check_refused(&bz_image(b"LZO!LZO!LZO!"), "4c5a4f21");
        let kernel = kernel_elf(false);
        let zstd = with_length(zstd::encode_all(&kernel[..], 1).unwrap(), &kernel);
        check_refused(&bz_image(&zstd), "CONFIG_PVH");
        let zstd = with_length(zstd::encode_all(&kernel[..], 1).unwrap(), &kernel[1..]);
        check_refused(&bz_image(&zstd), "bytes long");
        let text = b"just words, not a kernel";
        let zstd = with_length(zstd::encode_all(&text[..], 1).unwrap(), text);
        check_refused(&bz_image(&zstd), "no 64-bit ELF");
        let mut cut = bz_image(&zstd);
        cut.truncate(cut.len() - 1);
        check_refused(&cut, "no x86 bzImage");
    }
}
