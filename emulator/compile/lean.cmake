# Leaves out parts of llama.cpp that the emulator does not use. Without the library `common`,
# llama.cpp takes half the time to compile. To use this file, set CMAKE_PROJECT_llama_cpp_INCLUDE to
# its path.
#
# llama-cpp-python forces the cache entry LLAMA_BUILD_COMMON to ON. A normal variable has precedence
# over the cache entry [CMake policy CMP0126].
set(LLAMA_BUILD_COMMON OFF)

# Wheels cannot contain symbolic links, so each of the names of a library, such as libllama.so.0,
# would be a copy of the library.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

# On ARM processors with half-precision arithmetic but neither SVE nor i8mm, llama.cpp multiplies
# F16 weights with llamafile's routines if a decode call has 8 or more rows. These routines round
# differently from those for fewer rows, so equal requests could get different bytes. With SVE or
# i8mm, llama.cpp never uses llamafile's routines.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(GGML_LLAMAFILE OFF)
endif()

# If the processor has AMX, GCC defines __AMX_INT8__, and llama.cpp compiles routines for AMX. They
# crash if they were compiled with some versions of GCC, such as 12 [llama.cpp's pull request 26954].
# The option -mno-amx-int8 would have no effect, because -march=native follows it.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$" AND NOT MSVC)
    add_compile_options(-U__AMX_INT8__)
endif()
