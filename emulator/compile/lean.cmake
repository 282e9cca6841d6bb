# Leaves out a library of llama.cpp that the emulator never loads, to halve the time that llama.cpp
# takes to compile. To use it, set CMAKE_PROJECT_llama_cpp_INCLUDE to the path of this file.
#
# llama-cpp-python forces the cache entry LLAMA_BUILD_COMMON to ON. A normal variable has precedence
# over the cache entry [CMake policy CMP0126].
set(LLAMA_BUILD_COMMON OFF)

# Wheels cannot contain symbolic links, so each of the names of a library, such as libllama.so.0,
# would be a copy of the library.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)
