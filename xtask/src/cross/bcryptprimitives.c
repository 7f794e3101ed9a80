/* wine before 8.13 has no bcryptprimitives.dll, whose ProcessPrng Rust's standard library wants; this stands in for it in
 * tests. On Windows the system's own is found first. */
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length)
{
    return RtlGenRandom(data, (ULONG)length);
}
