//! The smallest kernels, modules and programs that the builder takes for real: test material, also for tests/.

/// A bzImage around a payload, as arch/x86/boot/tools/build.c lays it out.
pub fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 2 * 512];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(&[0x90; 16]);
    image.extend_from_slice(payload);
    image
}

/// The smallest ELF file with (or without) a PVH entry point.
pub fn kernel_elf(with_pvh: bool) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    file.extend_from_slice(&62u16.to_le_bytes()); // EM_X86_64
    file.extend_from_slice(&1u32.to_le_bytes());
    for value in [0u64, 64, 0] {
        file.extend_from_slice(&value.to_le_bytes()); // entry, phoff, shoff
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for value in [64u16, 56, 1, 64, 0, 0] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    let note_size = 12 + 4 + 8u64;
    file.extend_from_slice(&4u32.to_le_bytes()); // PT_NOTE
    file.extend_from_slice(&4u32.to_le_bytes());
    for value in [120u64, 0, 0, note_size, note_size, 4] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    let kind = if with_pvh { 18u32 } else { 17 };
    for value in [4u32, 8, kind] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&0x100_0000u64.to_le_bytes());
    file
}

pub fn with_length(mut compressed: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
    compressed.extend_from_slice(&(kernel.len() as u32).to_le_bytes());
    compressed
}

/// A relocatable ELF file with nothing but a .modinfo section.
pub fn module_elf(modinfo: &[u8]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let (info_at, names_at) = (64u64, 64 + modinfo.len() as u64);
    let sections_at = names_at + names.len() as u64;
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&1u16.to_le_bytes()); // ET_REL
    file.extend_from_slice(&62u16.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    for value in [0u64, 0, sections_at] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for value in [64u16, 0, 0, 64, 3, 2] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(modinfo);
    file.extend_from_slice(names);
    let section = |name: u32, kind: u32, at: u64, size: u64| {
        let mut header = Vec::new();
        header.extend_from_slice(&name.to_le_bytes());
        header.extend_from_slice(&kind.to_le_bytes());
        for value in [0u64, 0, at, size, 0, 1, 0] {
            header.extend_from_slice(&value.to_le_bytes());
        }
        header
    };
    file.extend(section(0, 0, 0, 0));
    file.extend(section(1, 1, info_at, modinfo.len() as u64));
    file.extend(section(10, 3, names_at, names.len() as u64));
    file
}

/// An ELF program or library with the given interpreter and needed libraries.
pub fn dynamic_elf(interpreter: Option<&str>, needed: &[&str]) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut dynamic = Vec::new();
    for name in needed {
        dynamic.extend_from_slice(&1u64.to_le_bytes()); // DT_NEEDED
        dynamic.extend_from_slice(&(strings.len() as u64).to_le_bytes());
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    dynamic.extend_from_slice(&[0; 16]);
    let interpreter = interpreter
        .map(|path| format!("{path}\0"))
        .unwrap_or_default();
    let interp_at = 64 + 56u64;
    let dynamic_at = interp_at + interpreter.len() as u64;
    let strings_at = dynamic_at + dynamic.len() as u64;
    let sections_at = strings_at + strings.len() as u64;
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&3u16.to_le_bytes());
    file.extend_from_slice(&62u16.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    for value in [0u64, 64, sections_at] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for value in [64u16, 56, 1, 64, 3, 2] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    let kind = if interpreter.is_empty() { 0u32 } else { 3 };
    file.extend_from_slice(&kind.to_le_bytes());
    file.extend_from_slice(&4u32.to_le_bytes());
    let size = interpreter.len() as u64;
    for value in [interp_at, 0, 0, size, size, 1] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(interpreter.as_bytes());
    file.extend_from_slice(&dynamic);
    file.extend_from_slice(&strings);
    let section = |kind: u32, at: u64, size: usize, link: u32, entry: u64| {
        let mut header = vec![0; 4];
        header.extend_from_slice(&kind.to_le_bytes());
        for value in [0u64, 0, at, size as u64] {
            header.extend_from_slice(&value.to_le_bytes());
        }
        header.extend_from_slice(&link.to_le_bytes());
        header.extend_from_slice(&0u32.to_le_bytes());
        for value in [1u64, entry] {
            header.extend_from_slice(&value.to_le_bytes());
        }
        header
    };
    file.extend(section(0, 0, 0, 0, 0));
    file.extend(section(6, dynamic_at, dynamic.len(), 2, 16));
    file.extend(section(3, strings_at, strings.len(), 0, 0));
    file
}
