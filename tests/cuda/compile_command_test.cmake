# `octavo compile` with a shell script for a compiler: what it makes, keeps, removes and prints, and
# how it exits.
#
#   cmake -D octavo=... -D work=... -P compile_command_test.cmake

set(nvcc ${work}/nvcc)
set(pack ${work}/pack)
set(ENV{OCTAVO_NVCC} ${nvcc})
set(ENV{OCTAVO_NVRTC} "")
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})

include(${CMAKE_CURRENT_LIST_DIR}/fake_nvcc.cmake)

function(expect code pattern)  # and the command's words
  execute_process(COMMAND ${octavo} compile ${ARGN}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL code OR NOT output MATCHES "${pattern}")
    message(FATAL_ERROR "octavo compile ${ARGN}: exit code ${result} instead of ${code}, or no "
                        "\"${pattern}\" in:\n${output}")
  endif()
  message(STATUS "octavo compile ${ARGN}: ${result}")
endfunction()

function(expect_files pattern)  # is met by every file of the pack, and there are some
  file(GLOB_RECURSE files RELATIVE ${pack} ${pack}/*)
  if(NOT files)
    message(FATAL_ERROR "the pack is empty")
  endif()
  foreach(file IN LISTS files)
    if(NOT file MATCHES "${pattern}")
      message(FATAL_ERROR "${file} in the pack is not like ${pattern}")
    endif()
  endforeach()
endfunction()

write_nvcc(${nvcc} first none)
set(problem ragged q=f32 hq=2 hkv=1 d=72 q_len=3 kv_len=3)
expect(0 "[1-9][0-9]* compiled, 0 there already, 0 failed" --arch 80,120 --out ${pack} ${problem})
expect_files("^sm_(80|120)/.*\\.cubin$")
expect(0 "0 compiled, [1-9][0-9]* there already" --arch 80,120 --out ${pack} ${problem})
expect(0 "\"compiled\":0,\"kept\":[1-9].*\"failures\":\\[\\]" --json --arch 80 --out ${pack} ${problem})

file(WRITE ${pack}/sm_80/old.cubin "code of other sources")
set(ENV{OCTAVO_CUDA_PACK} ${pack})
expect(0 "0 failed" --arch 80 --kernel cuda_reference --jobs 3)
if(NOT EXISTS ${pack}/sm_80/old.cubin)
  message(FATAL_ERROR "part of a pack is no reason to remove the rest")
endif()
expect(0 "0 failed" --arch 80 --jobs 3)
if(EXISTS ${pack}/sm_80/old.cubin)
  message(FATAL_ERROR "code of other sources stays in the pack")
endif()

write_nvcc(${nvcc} second 90)
expect(0 "[1-9][0-9]* compiled, 0 there already" --arch 80 ${problem})
expect(1 "sm_90: .*no such architecture" --arch 80,90 ${problem})
expect(1 "\"failed\":[1-9].*no such architecture" --json --arch 80,90 ${problem})
expect_files("^sm_(80|120)/.*\\.cubin$")

set(ENV{OCTAVO_NVCC} ${work}/none)
expect(2 "pip install nvidia-cuda-nvrtc" --arch 80)
expect(2 "--arch=91: one of 80, 86" --arch 91)
expect(2 "--jobs=0: from 1" --jobs 0)
expect(2 "takes no --device" --device cuda:0)
expect(2 "kernel cuda_none is unknown" --arch 80 --kernel cuda_none)
file(REMOVE_RECURSE ${work})
