#include "textflag.h"

// func readTSC() uint64
//
// LFENCE keeps RDTSC from being executed before earlier instructions have ended (Intel SDM, volume 2, RDTSC).
TEXT ·readTSC(SB), NOSPLIT, $0-8
	LFENCE
	RDTSC
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, ret+0(FP)
	RET
