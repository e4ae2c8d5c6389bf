# Finds nvcc and chooses architectures: SSL_FAST_CUDA and CMAKE_CUDA_ARCHITECTURES. A GPU need not
# be there, nor a torch with CUDA. Without nvcc, or with one that is too old, the CPU kernels alone
# are built and one line says so.

find_program(NVCC nvcc HINTS $ENV{CUDACXX} $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin
             /usr/local/cuda/bin)
if(DEFINED ENV{CUDACXX})
  set(NVCC $ENV{CUDACXX})
endif()
set(SSL_FAST_CUDA OFF)
if(NOT NVCC)
  message(STATUS "ssl_fast: no nvcc found: building the CPU kernels only (set CUDACXX or PATH)")
  return()
endif()

execute_process(COMMAND ${NVCC} --version OUTPUT_VARIABLE banner RESULT_VARIABLE failed
                ERROR_QUIET)
if(failed)
  message(FATAL_ERROR "ssl_fast: nvcc is '${NVCC}', which does not run: set CUDACXX to one that does")
endif()
string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" _ "${banner}")
# Before 12.1 a kernel's parameters were limited to 4 KB.
if(CMAKE_MATCH_1 VERSION_LESS 12.1)
  message(STATUS "ssl_fast: nvcc ${CMAKE_MATCH_1} is older than 12.1: building the CPU kernels only")
  return()
endif()

# "9.0;8.6+PTX" or "9.0 8.6+PTX", as torch's extensions take it, to CMake's form.
function(from_torch_list list result)
  string(REGEX REPLACE "[ ,]+" ";" list "${list}")
  foreach(entry ${list})
    string(REGEX MATCH "^([0-9]+)\\.([0-9]+[af]?)(\\+PTX)?$" matched "${entry}")
    if(NOT matched)
      message(FATAL_ERROR "ssl_fast: TORCH_CUDA_ARCH_LIST has '${entry}'; expected numbers such as "
                          "8.0, 9.0a or 9.0+PTX, separated by spaces or semicolons")
    endif()
    set(number "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
    if(CMAKE_MATCH_3)
      list(APPEND architectures ${number})
    else()
      list(APPEND architectures ${number}-real)
    endif()
  endforeach()
  set(${result} "${architectures}" PARENT_SCOPE)
endfunction()

# What this nvcc knows of the architectures that people train on; the newest as PTX too.
function(known_architectures result)
  execute_process(COMMAND ${NVCC} --list-gpu-arch OUTPUT_VARIABLE known)
  foreach(number 80 86 89 90 100 120)
    if(known MATCHES "compute_${number}[\r\n]")
      list(APPEND architectures ${number})
    endif()
  endforeach()
  list(POP_BACK architectures newest)
  list(TRANSFORM architectures APPEND -real)
  set(${result} "${architectures};${newest}" PARENT_SCOPE)
endfunction()

if(DEFINED ENV{TORCH_CUDA_ARCH_LIST})
  from_torch_list("$ENV{TORCH_CUDA_ARCH_LIST}" CMAKE_CUDA_ARCHITECTURES)
elseif(DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES $ENV{CUDAARCHS})
elseif(EXISTS /dev/nvidia0 OR EXISTS /dev/dxg)
  set(CMAKE_CUDA_ARCHITECTURES native)
else()
  known_architectures(CMAKE_CUDA_ARCHITECTURES)
endif()
set(CMAKE_CUDA_COMPILER ${NVCC})
enable_language(CUDA)
set(SSL_FAST_CUDA ON)
message(STATUS "ssl_fast: CUDA ${CMAKE_CUDA_COMPILER_VERSION}, architectures "
               "${CMAKE_CUDA_ARCHITECTURES}")
