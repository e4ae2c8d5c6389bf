# LibTorch's stable ABI: headers and libtorch_cpu of the torch in TORCH_DIR, no others. One build
# serves every torch from 2.10 on, and loads under a torch without CUDA.
if(NOT EXISTS "${TORCH_DIR}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "ssl_fast: TORCH_DIR is '${TORCH_DIR}'; expected the folder of an installed "
                      "torch, 2.10 or newer, with include/torch/csrc/stable")
endif()
file(STRINGS "${TORCH_DIR}/version.py" TORCH_VERSION REGEX "^__version__")
string(REGEX REPLACE ".*['\"](.*)['\"].*" "\\1" TORCH_VERSION "${TORCH_VERSION}")

function(use_torch target)
  set_target_properties(${target} PROPERTIES PREFIX "")
  target_include_directories(${target} PRIVATE csrc)
  target_include_directories(${target} SYSTEM PRIVATE ${TORCH_DIR}/include)
  target_compile_definitions(${target} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000 USE_CUDA)
  target_link_directories(${target} PRIVATE ${TORCH_DIR}/lib)
  target_link_libraries(${target} PRIVATE torch_cpu)
  if(APPLE)
    target_link_options(${target} PRIVATE -undefined dynamic_lookup)
  endif()
endfunction()
